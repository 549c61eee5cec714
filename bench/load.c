/* The load generator of the benchmark. It uses little CPU time, and only the loopback interface.
 *
 *   load serve PORT                            serves each connection as the sink, source or echo that it requests
 *   load up|down PORT FLOWS BYTES              prints MB/s
 *   load pp PORT CONNECTIONS REQUEST ANSWER SECONDS [PAUSE]    prints round trips/s, p50 us, p99 us, p99.9 us; each
 *                                              connection sends its next request PAUSE microseconds (default: 0) after
 *                                              the response
 *   load conn PORT CONCURRENCY COUNT           opens connections, sends one byte in each direction, and closes them; prints
 *                                              connections/s, p50 us, p99 us, p99.9 us
 *   load idle PORT CONNECTIONS PINGS           opens connections, prints "open", waits for a line, pings one random
 *                                              connection at a time, prints p50 us, p99 us, p99.9 us; then waits for
 *                                              the end of stdin
 *   load delay PORT TO MICROSECONDS            runs a proxy with a constant delay in each direction, without a bandwidth limit
 *
 * At the start of a connection, the client sends 17 bytes: 's' (sink), 'r' (source) or 'e' (echo), the number of
 * bytes to transfer (for sink and source), and the sizes of a request and of a response (for echo).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (1 << 20)
#define EVENTS 256
#define HEAD 17
#define STALL_MS 60000

static char buffer[CHUNK];
static int poller;

static void die(const char *what) { perror(what); exit(1); }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static int by_value(const void *a, const void *b) { float x = *(const float *)a, y = *(const float *)b; return (x > y) - (x < y); }

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return a;
}
static int dial(int port, int nonblocking) {
    struct sockaddr_in a = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | (nonblocking ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (void *)&a, sizeof a) && errno != EINPROGRESS) die("connect");
    return fd;
}
static int listening(int port) {
    struct sockaddr_in a = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    return fd;
}
static void watch(int op, int fd, uint32_t events, void *what) {
    struct epoll_event e = {.events = events, .data.ptr = what};
    if (epoll_ctl(poller, op, fd, &e)) die("epoll_ctl");
}
static void send_all(int fd, const char *p, size_t n) {
    while (n) { ssize_t k = send(fd, p, n, MSG_NOSIGNAL); if (k < 0 && errno == EAGAIN) continue; if (k <= 0) die("send"); p += k; n -= k; }
}
static void receive_all(int fd, size_t n) {
    while (n) { ssize_t k = recv(fd, buffer, n < CHUNK ? n : CHUNK, 0); if (k <= 0) { fprintf(stderr, "the peer closed the connection\n"); exit(1); } n -= k; }
}
static void send_head(int fd, char kind, uint64_t count, uint32_t ask, uint32_t answer) {
    char h[HEAD]; h[0] = kind; memcpy(h + 1, &count, 8); memcpy(h + 9, &ask, 4); memcpy(h + 13, &answer, 4);
    send_all(fd, h, HEAD);
}
static int events_before(struct epoll_event *events, double due) {   /* returns 0 if no event occurs until `due` */
    double wait = due - now();
    struct timespec limit = {.tv_sec = wait > 0 ? (time_t)wait : 0, .tv_nsec = wait > 0 ? (long)((wait - (time_t)wait) * 1e9) : 0};
    int n = epoll_pwait2(poller, events, EVENTS, &limit, NULL);
    if (n < 0 && errno != EINTR) die("epoll_pwait2");
    return n;
}
static int events_now(struct epoll_event *events) {
    int n = epoll_wait(poller, events, EVENTS, STALL_MS);
    if (n <= 0) { fprintf(stderr, "stalled\n"); exit(2); }
    return n;
}
static void print_latency(float *us, size_t n) { qsort(us, n, sizeof *us, by_value); printf("%.1f %.1f %.1f", us[n / 2], us[(size_t)(n * .99)], us[(size_t)(n * .999)]); }

/* ---- serve ---- */
struct peer { int fd, got; char head[HEAD]; uint64_t left; uint32_t ask, answer, have, owed; };
static void end_peer(struct peer *p) { close(p->fd); free(p); }
static int pour(struct peer *p) {           /* returns 0: all sent, 1: socket is full, -1: error */
    while (p->left) {
        ssize_t k = send(p->fd, buffer, p->left < CHUNK ? p->left : CHUNK, MSG_NOSIGNAL);
        if (k < 0) return errno == EAGAIN ? 1 : -1;
        p->left -= k;
    }
    return 0;
}
static int answer(struct peer *p) {
    while (p->owed) {
        ssize_t k = send(p->fd, buffer, p->owed < CHUNK ? p->owed : CHUNK, MSG_NOSIGNAL);
        if (k < 0) return errno == EAGAIN ? 1 : -1;
        p->owed -= k;
    }
    return 0;
}
static int turn(struct peer *p, uint32_t events) {   /* returns -1: close the connection */
    if (events & EPOLLOUT) {
        int r = p->head[0] == 'r' ? pour(p) : answer(p);
        if (r < 0) return -1;
        if (r == 0) watch(EPOLL_CTL_MOD, p->fd, EPOLLIN, p);
    }
    if (!(events & ~EPOLLOUT)) return 0;
    if (p->got < HEAD) {
        ssize_t k = recv(p->fd, p->head + p->got, HEAD - p->got, 0);
        if (k <= 0) return k < 0 && errno == EAGAIN ? 0 : -1;
        if ((p->got += k) < HEAD) return 0;
        memcpy(&p->left, p->head + 1, 8); memcpy(&p->ask, p->head + 9, 4); memcpy(&p->answer, p->head + 13, 4);
        if (p->head[0] == 'r') { int r = pour(p); if (r > 0) watch(EPOLL_CTL_MOD, p->fd, EPOLLIN | EPOLLOUT, p); return r < 0 ? -1 : 0; }
    }
    ssize_t k = recv(p->fd, buffer, CHUNK, 0);
    if (k <= 0) return k < 0 && errno == EAGAIN ? 0 : -1;
    if (p->head[0] == 's') { p->left -= (uint64_t)k < p->left ? k : p->left; return p->left == 0 && send(p->fd, "k", 1, MSG_NOSIGNAL) < 0 ? -1 : 0; }
    if (p->head[0] == 'e') {
        for (p->have += k; p->have >= p->ask; p->have -= p->ask) p->owed += p->answer;
        int r = answer(p);
        if (r > 0) watch(EPOLL_CTL_MOD, p->fd, EPOLLIN | EPOLLOUT, p);
        return r < 0 ? -1 : 0;
    }
    return 0;
}
static void serve(int port) {
    struct epoll_event events[EVENTS];
    int server = listening(port), one = 1;
    watch(EPOLL_CTL_ADD, server, EPOLLIN, NULL);
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct peer *p = events[i].data.ptr;
            if (p) { if (turn(p, events[i].events) < 0) end_peer(p); continue; }
            for (int fd; (fd = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                p = calloc(1, sizeof *p); p->fd = fd;
                watch(EPOLL_CTL_ADD, fd, EPOLLIN, p);
            }
        }
    }
}

/* ---- clients ---- */
struct flow { int fd, open; uint64_t left; uint32_t got; double since; };
static int bulk(int port, int up, int flows, uint64_t bytes) {
    struct epoll_event events[EVENTS];
    struct flow *all = calloc(flows, sizeof *all);
    for (int i = 0; i < flows; i++) all[i].fd = dial(port, 0);
    usleep(100000);
    double begin = now();
    for (int i = 0; i < flows; i++) {
        send_head(all[i].fd, up ? 's' : 'r', bytes, 0, 0);
        all[i].left = bytes;
        watch(EPOLL_CTL_ADD, all[i].fd, up ? EPOLLIN | EPOLLOUT : EPOLLIN, all + i);
    }
    for (int done = 0; done < flows;) {
        int n = events_now(events);
        for (int i = 0; i < n; i++) {
            struct flow *f = events[i].data.ptr;
            if (up && (events[i].events & EPOLLIN)) {
                char c; ssize_t k = recv(f->fd, &c, 1, MSG_DONTWAIT);
                if (k == 0) die("closed");
                if (k == 1) { done++; watch(EPOLL_CTL_DEL, f->fd, 0, f); continue; }
            }
            if (up && (events[i].events & EPOLLOUT) && f->left) {
                ssize_t k = send(f->fd, buffer, f->left < CHUNK / 4 ? f->left : CHUNK / 4, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (k < 0 && errno != EAGAIN) die("send");
                if (k > 0 && !(f->left -= k)) watch(EPOLL_CTL_MOD, f->fd, EPOLLIN, f);
            }
            if (!up) {
                ssize_t k = recv(f->fd, buffer, CHUNK, MSG_DONTWAIT);
                if (k == 0 || (k < 0 && errno != EAGAIN)) die("receive");
                if (k > 0 && !(f->left -= k)) { done++; watch(EPOLL_CTL_DEL, f->fd, 0, f); }
            }
        }
    }
    printf("%.1f\n", (double)bytes * flows / (now() - begin) / 1e6);
    return 0;
}
static int ping_pong(int port, int count, uint32_t ask, uint32_t reply, double seconds, double pause) {
    struct epoll_event events[EVENTS];
    struct flow *all = calloc(count, sizeof *all), **paused = calloc(count, sizeof *paused);
    size_t first = 0, last = 0;              /* all pauses are equal, so they end in the order in which they began */
    size_t room = 8000000, n_us = 0; float *us = malloc(room * sizeof *us);
    for (int i = 0; i < count; i++) { all[i].fd = dial(port, 0); send_head(all[i].fd, 'e', 0, ask, reply); send_all(all[i].fd, buffer, ask); receive_all(all[i].fd, reply); }
    for (int i = 0; i < count; i++) { watch(EPOLL_CTL_ADD, all[i].fd, EPOLLIN, all + i); all[i].since = now(); send_all(all[i].fd, buffer, ask); }
    double begin = now(), t = begin;
    while (t < begin + seconds) {
        int n = first < last ? events_before(events, paused[first % count]->since + pause) : events_now(events);
        for (int i = 0; i < n; i++) {
            struct flow *f = events[i].data.ptr;
            ssize_t k = recv(f->fd, buffer, CHUNK, MSG_DONTWAIT);
            if (k <= 0) die("receive");
            if ((f->got += k) < reply) continue;
            t = now();
            if (n_us < room) us[n_us++] = (t - f->since) * 1e6;
            f->got = 0; f->since = t;
            if (pause > 0) paused[last++ % count] = f;
            else send_all(f->fd, buffer, ask);
        }
        for (; first < last && paused[first % count]->since + pause <= (t = now()); first++) {
            paused[first % count]->since = t;
            send_all(paused[first % count]->fd, buffer, ask);
        }
    }
    printf("%.0f ", n_us / (t - begin)); print_latency(us, n_us); puts("");
    return 0;
}
static int started, wanted;
static void begin_one(struct flow *f, int port) {
    f->since = now(); f->fd = dial(port, 1); f->open = 0; started++;
    watch(EPOLL_CTL_ADD, f->fd, EPOLLOUT, f);
}
static int connections(int port, int at_once, int count) {
    struct epoll_event events[EVENTS];
    struct flow *all = calloc(at_once, sizeof *all);
    float *us = malloc(count * sizeof *us + 64); int done = 0;
    wanted = count;
    double begin = now();
    for (int i = 0; i < at_once && started < wanted; i++) begin_one(all + i, port);
    while (done < wanted) {
        int n = events_now(events);
        for (int i = 0; i < n; i++) {
            struct flow *f = events[i].data.ptr;
            if (!f->open) { send_head(f->fd, 'e', 0, 1, 1); send_all(f->fd, "x", 1); f->open = 1; watch(EPOLL_CTL_MOD, f->fd, EPOLLIN, f); continue; }
            ssize_t k = recv(f->fd, buffer, CHUNK, MSG_DONTWAIT);
            if (k < 0 && errno == EAGAIN) continue;
            if (k <= 0) { fprintf(stderr, "closed after %d\n", done); exit(1); }
            close(f->fd);
            us[done++] = (now() - f->since) * 1e6;
            if (started < wanted) begin_one(f, port);
        }
    }
    printf("%.0f ", done / (now() - begin)); print_latency(us, done); puts("");
    return 0;
}
static int idle(int port, int count, int pings) {
    int *fds = calloc(count, sizeof *fds); char line[16];
    float *us = malloc(pings * sizeof *us);
    for (int i = 0; i < count; i++) { fds[i] = dial(port, 0); send_head(fds[i], 'e', 0, 1, 1); send_all(fds[i], "x", 1); receive_all(fds[i], 1); }
    puts("open"); fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 0;
    for (int i = 0; i < pings; i++) { int fd = fds[rand() % count]; double t = now(); send_all(fd, "x", 1); receive_all(fd, 1); us[i] = (now() - t) * 1e6; }
    print_latency(us, pings); puts(""); fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {}
    return 0;
}

/* ---- delay ---- */
struct piece { struct piece *next; double due; size_t size, at; char data[1 << 16]; };
struct direction { int from, to, eof, blocked, readable; struct piece *first, *last; struct direction *back; };
static struct piece *free_pieces;
static void receive_pieces(struct direction *w, double seconds) {   /* at most 16, so that the other directions do not wait */
    for (int i = 0; i < 16 && w->readable; i++) {
        struct piece *p = free_pieces;
        if (p) free_pieces = p->next; else if (!(p = malloc(sizeof *p))) die("malloc");
        ssize_t k = recv(w->from, p->data, sizeof p->data, MSG_DONTWAIT);
        if (k < 0 && errno == EAGAIN) { p->next = free_pieces; free_pieces = p; w->readable = 0; return; }
        if (k <= 0) { w->eof = 1; w->readable = 0; k = 0; }
        p->next = NULL; p->size = k; p->at = 0; p->due = now() + seconds;
        if (w->first) w->last->next = p; else w->first = p;
        w->last = p;
    }
}
static void send_pieces(struct direction *w, double t) {
    while (!w->blocked && w->first && w->first->due <= t) {
        struct piece *p = w->first;
        ssize_t k = p->size ? send(w->to, p->data + p->at, p->size - p->at, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
        if (k < 0 && errno == EAGAIN) { w->blocked = 1; return; }
        if (!p->size) shutdown(w->to, SHUT_WR);
        if (k > 0 && (p->at += k) < p->size) continue;
        w->first = p->next; p->next = free_pieces; free_pieces = p;
    }
}
static void delay(int port, int to, double seconds) {
    static struct direction *directions[4096]; int n_directions = 0, one = 1;
    struct epoll_event events[EVENTS];
    int server = listening(port);
    watch(EPOLL_CTL_ADD, server, EPOLLIN, NULL);
    for (;;) {
        double t = now(), next = t + 1;
        for (int i = 0; i < n_directions; i++) {
            struct direction *w = directions[i];
            send_pieces(w, t);
            receive_pieces(w, seconds);
            if (w->readable) next = t;
            if (!w->blocked && w->first && w->first->due < next) next = w->first->due;
        }
        int n = events_before(events, next);
        for (int i = 0; i < n; i++) {
            struct direction *w = events[i].data.ptr;
            if (w) {
                if (events[i].events & EPOLLOUT) w->back->blocked = 0;
                if (events[i].events & ~EPOLLOUT) w->readable = !w->eof;
                continue;
            }
            int a = accept4(server, NULL, NULL, SOCK_NONBLOCK), b = dial(to, 1);
            if (a < 0 || n_directions + 2 > 4096) continue;
            setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            struct direction *x = calloc(1, sizeof *x), *y = calloc(1, sizeof *y);
            x->from = y->to = a; x->to = y->from = b; x->back = y; y->back = x;
            directions[n_directions++] = x; directions[n_directions++] = y;
            watch(EPOLL_CTL_ADD, a, EPOLLIN | EPOLLOUT | EPOLLET, x); watch(EPOLL_CTL_ADD, b, EPOLLIN | EPOLLOUT | EPOLLET, y);
        }
    }
}

int main(int n, char **a) {
    struct rlimit limit; getrlimit(RLIMIT_NOFILE, &limit); limit.rlim_cur = limit.rlim_max; setrlimit(RLIMIT_NOFILE, &limit);
    poller = epoll_create1(0);
    if (n == 3 && !strcmp(a[1], "serve")) serve(atoi(a[2]));
    if (n == 5 && !strcmp(a[1], "up")) return bulk(atoi(a[2]), 1, atoi(a[3]), strtoull(a[4], 0, 10));
    if (n == 5 && !strcmp(a[1], "down")) return bulk(atoi(a[2]), 0, atoi(a[3]), strtoull(a[4], 0, 10));
    if ((n == 7 || n == 8) && !strcmp(a[1], "pp"))
        return ping_pong(atoi(a[2]), atoi(a[3]), atoi(a[4]), atoi(a[5]), atof(a[6]), n == 8 ? atof(a[7]) / 1e6 : 0);
    if (n == 5 && !strcmp(a[1], "conn")) return connections(atoi(a[2]), atoi(a[3]), atoi(a[4]));
    if (n == 5 && !strcmp(a[1], "idle")) return idle(atoi(a[2]), atoi(a[3]), atoi(a[4]));
    if (n == 5 && !strcmp(a[1], "delay")) delay(atoi(a[2]), atoi(a[3]), atof(a[4]) / 1e6);
    fprintf(stderr, "usage: see the comment at the start of load.c\n");
    return 2;
}
