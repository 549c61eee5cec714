/* Simulates file descriptors, epoll, eventfd, timerfd and the clock. The program aborts if a closed descriptor is
 * used.
 */
#include "listeners.h"
#include "pairs.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

struct file files[MAX_FILES];
int file_count;
uint64_t fake_now, waited_at;
uint32_t event_order;
struct faults faults;

void fail(const char *file, int line, const char *format, ...)
{
    va_list values;

    fprintf(stderr, "%s:%d: ", file, line);
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    abort();
}

bool fault(uint32_t *countdown)
{
    return *countdown && --*countdown == 0;
}

void files_reset(void)
{
    memset(files, 0, (size_t)file_count * sizeof *files);
    file_count = 0;
    fake_now = 1000 * SECOND;
    waited_at = 0;
    event_order = 0;
    faults = (struct faults){0};
}

int file_open(enum file_kind kind, int owner)
{
    CHECK(file_count < MAX_FILES, "too many descriptors");
    files[file_count] = (struct file){.kind = kind, .owner = owner};
    return FIRST_FD + file_count++;
}

bool file_is_open(int fd)
{
    return fd >= FIRST_FD && fd < FIRST_FD + file_count && files[fd - FIRST_FD].kind != FILE_CLOSED;
}

struct file *file_of(int fd)
{
    CHECK(file_is_open(fd), "descriptor %d is closed", fd);
    return &files[fd - FIRST_FD];
}

int open_files(void)
{
    int count = 0;

    for (int at = 0; at < file_count; at++)
        count += files[at].kind != FILE_CLOSED;
    return count;
}

/* Return the events that epoll(7) would report for a file. */
uint32_t file_ready(const struct file *f)
{
    if (f->kind == FILE_EVENT)
        return f->counter ? EPOLLIN : 0;
    if (f->kind == FILE_TIMER)
        return f->counter && fake_now >= f->counter ? EPOLLIN : 0;
    return (f->available || f->ended || f->dead || f->error ? EPOLLIN : 0) | (f->error ? EPOLLERR : 0) |
           (f->room || f->shut || f->dead || f->error ? EPOLLOUT : 0) |
           (f->dead || (f->ended && f->shut) ? EPOLLHUP : 0);
}

int fake_epoll_create1(int flags)
{
    (void)flags;
    return file_open(FILE_EPOLL, 0);
}

int fake_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    struct file *f = file_of(fd);

    CHECK(file_of(epoll)->kind == FILE_EPOLL, "not an epoll descriptor");
    CHECK(f->registered == (operation != EPOLL_CTL_ADD), "operation %d on descriptor %d", operation, fd);
    if (operation != EPOLL_CTL_DEL && fault(&faults.epoll)) {
        errno = ENOMEM;
        faults.injected = true;
        return -1;
    }
    f->registered = operation != EPOLL_CTL_DEL;
    if (f->registered) {
        f->mask = event->events;
        f->data = event->data.ptr;
        f->reported = 0;
    }
    return 0;
}

int fake_epoll_wait(int epoll, struct epoll_event *events, int capacity, int timeout)
{
    int count = 0;

    CHECK(file_of(epoll)->kind == FILE_EPOLL, "not an epoll descriptor");
    CHECK(timeout == 0, "the harness would wait");
    for (int at = 0; at < file_count && count < capacity; at++) {
        struct file *f = &files[((uint32_t)at + event_order) % (uint32_t)file_count];
        uint32_t ready;

        if (f->kind == FILE_CLOSED || !f->registered)
            continue;
        ready = file_ready(f) & (f->mask | EPOLLERR | EPOLLHUP);
        if (ready && (!(f->mask & EPOLLET) || ready & ~f->reported))
            events[count++] = (struct epoll_event){.events = ready, .data.ptr = f->data};
        f->reported = ready;
    }
    if (count < capacity)
        waited_at = fake_now;
    return count;
}

int fake_eventfd(unsigned initial, int flags)
{
    int fd = file_open(FILE_EVENT, 0);

    (void)flags;
    file_of(fd)->counter = initial;
    return fd;
}

int fake_timerfd_create(int clock, int flags)
{
    (void)clock;
    (void)flags;
    return file_open(FILE_TIMER, 0);
}

int fake_timerfd_settime(int fd, int flags, const struct itimerspec *when, struct itimerspec *before)
{
    CHECK(flags == TFD_TIMER_ABSTIME && !before, "unexpected arguments of timerfd_settime");
    file_of(fd)->counter = (uint64_t)when->it_value.tv_sec * SECOND + (uint64_t)when->it_value.tv_nsec;
    return 0;
}

ssize_t fake_read(int fd, void *data, size_t size)
{
    struct file *f = file_of(fd);
    const uint64_t count = f->kind == FILE_EVENT ? f->counter : 1;

    CHECK((f->kind == FILE_EVENT || f->kind == FILE_TIMER) && size == sizeof count, "unexpected read");
    if (!(file_ready(f) & EPOLLIN)) {
        errno = EAGAIN;
        return -1;
    }
    memcpy(data, &count, sizeof count);
    f->counter = 0;
    return sizeof count;
}

ssize_t fake_write(int fd, const void *data, size_t size)
{
    struct file *f = file_of(fd);
    uint64_t count;

    CHECK(f->kind == FILE_EVENT && size == sizeof count, "unexpected write");
    memcpy(&count, data, sizeof count);
    f->counter += count;
    return (ssize_t)size;
}

int fake_close(int fd)
{
    struct file *f = file_of(fd);

    if (f->kind == FILE_SIDE)
        pair_closed(f);
    if (f->kind == FILE_CLIENT)
        client_closed(f);
    if (f->kind == FILE_LISTENER)
        listeners[f->owner].closed_at = fake_now;
    CHECK(f->kind != FILE_DIAL || !f->registered, "a closed dial is still registered");
    *f = (struct file){0};
    return 0;
}

int fake_clock_gettime(clockid_t clock, struct timespec *now)
{
    CHECK(clock == CLOCK_MONOTONIC, "an unexpected clock");
    fake_now += 1000;
    *now = (struct timespec){.tv_sec = (time_t)(fake_now / SECOND), .tv_nsec = (long)(fake_now % SECOND)};
    return 0;
}

ssize_t fake_getrandom(void *data, size_t size, unsigned flags)
{
    (void)flags;
    memset(data, 0xa5, size);
    return (ssize_t)size;
}
