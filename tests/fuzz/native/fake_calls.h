/* Replaces the engine's system calls and memory allocations with functions of the fuzzer. The compiler option
 * `-include` inserts this file into each C file.
 */
#ifndef GATEWAY_FUZZ_FAKE_CALLS_H
#define GATEWAY_FUZZ_FAKE_CALLS_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* files.c */
int fake_epoll_create1(int flags);
int fake_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int fake_epoll_wait(int epoll, struct epoll_event *events, int capacity, int timeout);
int fake_eventfd(unsigned initial, int flags);
int fake_timerfd_create(int clock, int flags);
int fake_timerfd_settime(int fd, int flags, const struct itimerspec *when, struct itimerspec *before);
ssize_t fake_read(int fd, void *data, size_t size);
ssize_t fake_write(int fd, const void *data, size_t size);
int fake_close(int fd);
int fake_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t fake_getrandom(void *data, size_t size, unsigned flags);

/* sockets.c */
ssize_t fake_recv(int fd, void *data, size_t size, int flags);
ssize_t fake_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t fake_send(int fd, const void *data, size_t size, int flags);
ssize_t fake_sendmsg(int fd, const struct msghdr *message, int flags);
int fake_shutdown(int fd, int how);
int fake_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int fake_setsockopt(int fd, int level, int name, const void *value, socklen_t size);

/* listeners.c */
int fake_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags);

/* dials.c */
int fake_socket(int family, int type, int protocol);
int fake_connect(int fd, const struct sockaddr *address, socklen_t size);
int fake_getsockname(int fd, struct sockaddr *to, socklen_t *size);
int fake_getpeername(int fd, struct sockaddr *to, socklen_t *size);

/* pairs.c */
int fake_pipe2(int ends[2], int flags);
int fake_fcntl(int fd, int command, ...);
int fake_ioctl(int fd, unsigned long request, int *value);
ssize_t fake_splice(int in, void *in_offset, int out, void *out_offset, size_t size, unsigned flags);

/* memory.c */
void *fake_malloc(size_t size);
void *fake_calloc(size_t count, size_t size);
void *fake_realloc(void *before, size_t size);
void *fake_aligned_alloc(size_t alignment, size_t size);
void fake_free(void *data);
void *fake_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int fake_munmap(void *address, size_t size);

#ifndef GATEWAY_FUZZ_HARNESS
#define epoll_create1(...) fake_epoll_create1(__VA_ARGS__)
#define epoll_ctl(...) fake_epoll_ctl(__VA_ARGS__)
#define epoll_wait(...) fake_epoll_wait(__VA_ARGS__)
#define eventfd(...) fake_eventfd(__VA_ARGS__)
#define timerfd_create(...) fake_timerfd_create(__VA_ARGS__)
#define timerfd_settime(...) fake_timerfd_settime(__VA_ARGS__)
#define read(...) fake_read(__VA_ARGS__)
#define write(...) fake_write(__VA_ARGS__)
#define close(...) fake_close(__VA_ARGS__)
#define clock_gettime(...) fake_clock_gettime(__VA_ARGS__)
#define getrandom(...) fake_getrandom(__VA_ARGS__)
#define recv(...) fake_recv(__VA_ARGS__)
#define recvmsg(...) fake_recvmsg(__VA_ARGS__)
#define send(...) fake_send(__VA_ARGS__)
#define sendmsg(...) fake_sendmsg(__VA_ARGS__)
#define shutdown(...) fake_shutdown(__VA_ARGS__)
#define getsockopt(...) fake_getsockopt(__VA_ARGS__)
#define setsockopt(...) fake_setsockopt(__VA_ARGS__)
#define accept4(...) fake_accept4(__VA_ARGS__)
#define socket(...) fake_socket(__VA_ARGS__)
#define connect(...) fake_connect(__VA_ARGS__)
#define getsockname(...) fake_getsockname(__VA_ARGS__)
#define getpeername(...) fake_getpeername(__VA_ARGS__)
#define pipe2(...) fake_pipe2(__VA_ARGS__)
#define fcntl(...) fake_fcntl(__VA_ARGS__)
#define ioctl(...) fake_ioctl(__VA_ARGS__)
#define splice(...) fake_splice(__VA_ARGS__)
#define malloc(...) fake_malloc(__VA_ARGS__)
#define calloc(...) fake_calloc(__VA_ARGS__)
#define realloc(...) fake_realloc(__VA_ARGS__)
#define aligned_alloc(...) fake_aligned_alloc(__VA_ARGS__)
#define free(...) fake_free(__VA_ARGS__)
#define mmap(...) fake_mmap(__VA_ARGS__)
#define munmap(...) fake_munmap(__VA_ARGS__)
#endif

#endif
