/* A library for LD_PRELOAD. When the program reads the counters of a certain socket with getsockopt(2) and ioctl(2),
 * the library makes one byte or a FIN arrive at this socket. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int arriving_at = -1;   /* the file descriptor of the socket whose counters the program reads */
int arriving_from = -1; /* the file descriptor of the socket at the other end of the connection */
int arriving_fin;       /* 1: the library sends a FIN; 0: the library sends one byte */
int arriving_count;     /* 1 after the library has sent the byte or the FIN; 0 before */

static int begins(int fd, int is_fin)
{
    return fd == arriving_at && arriving_fin == is_fin && !arriving_count && ++arriving_count;
}

/* Send the byte after the native engine has read TCP_INFO, and before the native engine reads FIONREAD. */
int ioctl(int fd, unsigned long request, ...)
{
    static int (*next)(int, unsigned long, void *);
    va_list rest;
    void *argument;

    va_start(rest, request);
    argument = va_arg(rest, void *);
    va_end(rest);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "ioctl");
    if (request == FIONREAD && begins(fd, 0))
        send(arriving_from, "x", 1, MSG_NOSIGNAL);
    return next(fd, request, argument);
}

/* Send the FIN before the kernel reads TCP_INFO, but return the earlier TCP state. This simulates a FIN that arrives
 * after the kernel has read the state, and before the kernel locks the socket to read the counters. */
int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    static int (*next)(int, int, int, void *, socklen_t *);
    int stale, result;

    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "getsockopt");
    stale = level == IPPROTO_TCP && name == TCP_INFO && begins(fd, 1);
    if (stale)
        shutdown(arriving_from, SHUT_WR);
    result = next(fd, level, name, value, size);
    if (stale)
        ((struct tcp_info *)value)->tcpi_state = 1; /* TCP_ESTABLISHED */
    return result;
}
