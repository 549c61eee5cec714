/* A library for LD_PRELOAD: lets data or a FIN arrive during the system calls that read a socket's counters. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int arriving_at = -1;   /* the socket whose counters are read */
int arriving_from = -1; /* the socket at the other end of the connection */
int arriving_fin;       /* whether a FIN arrives; otherwise, one byte */
int arriving_count;     /* the number of arrivals that have happened; at most one */

static int begins(int fd, int is_fin)
{
    return fd == arriving_at && arriving_fin == is_fin && !arriving_count && ++arriving_count;
}

/* A byte arrives between TCP_INFO and FIONREAD. */
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

/* A FIN arrives after the kernel has read the state, and before it locks the socket to read the counters. */
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
