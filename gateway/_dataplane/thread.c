/* Starts and stops the thread of a native engine. The thread runs the epoll loop and notifies Python of records. It never takes
 * Python's GIL. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "engine.h"

/* If the waiting records exceed this number of bytes, the native engine notifies Python, even if no record is urgent. */
#define MAX_WAITING ((size_t)64 * 1024)

static void notify(int fd)
{
    const uint64_t one = 1;
    ssize_t size = write(fd, &one, sizeof one); /* write(2) fails only if the eventfd is already readable */

    (void)size;
}

static void clear(int fd)
{
    uint64_t count;
    ssize_t size = read(fd, &count, sizeof count); /* read(2) fails only if the eventfd is not readable */

    (void)size;
}

/* Wait while too many records wait for Python. Return false if the thread must stop. */
static bool wait_for_python(struct engine *e)
{
    bool stopping;

    pthread_mutex_lock(&e->lock);
    while (e->records.size > MAX_RECORDS && !e->stopping)
        pthread_cond_wait(&e->taken, &e->lock);
    stopping = e->stopping;
    pthread_mutex_unlock(&e->lock);
    return !stopping;
}

/* Notify Python if an urgent record waits, if the waiting records exceed MAX_WAITING bytes, if records were lost, or if an
 * error ends the thread. Do not notify Python again until it has taken the records.
 *
 * Args: error: the error that ends the thread, or 0.
 */
void thread_report(struct engine *e, int error)
{
    bool due;

    pthread_mutex_lock(&e->lock);
    e->failed = error;
    due = ((e->records.size > 0 && e->records_urgent) || e->records.size > MAX_WAITING || e->records_lost || error) &&
          !e->report_pending;
    if (due)
        e->report_pending = true;
    pthread_mutex_unlock(&e->lock);
    if (due)
        notify(e->report);
}

/* Replace the default scheduling policy, SCHED_OTHER, with SCHED_BATCH (sched(7)). Keep any other policy. A SCHED_BATCH thread
 * does not preempt running threads, such as those of a client or server. While the SCHED_BATCH thread waits for a
 * processor, more events arrive, and one system call then handles several of them. */
static void avoid_preemption(void)
{
    struct sched_param parameters;
    int policy;

    if (pthread_getschedparam(pthread_self(), &policy, &parameters) == 0 && policy == SCHED_OTHER)
        pthread_setschedparam(pthread_self(), SCHED_BATCH, &parameters); /* if this fails, the thread is only less efficient */
}

static void *run(void *argument)
{
    struct engine *e = argument;
    int error = 0;

    avoid_preemption();
    while (!error && wait_for_python(e)) {
        error = engine_turn(e, -1);
        thread_report(e, error);
    }
    return NULL;
}

/* Start the thread. Return 0 or an error. The thread blocks all signals, because Python's main thread handles them. */
int thread_start(struct engine *e)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&e->thread, NULL, run, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    e->has_thread = error == 0;
    return error;
}

/* Stop the thread, and wait until it has ended. This takes only milliseconds, because the thread handles events without
 * blocking. */
void thread_stop(struct engine *e)
{
    if (!e->has_thread)
        return;
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    pthread_cond_signal(&e->taken);
    pthread_mutex_unlock(&e->lock);
    notify(e->wake);
    pthread_join(e->thread, NULL);
    e->has_thread = false;
}

/* Make the thread run the queued commands. The caller has set `wake_pending`. */
void thread_wake(struct engine *e)
{
    notify(e->wake);
}

void thread_woken(struct engine *e)
{
    clear(e->wake);
}

/* Clear the notification for Python. Called before Python takes the records. */
void thread_reported(struct engine *e)
{
    clear(e->report);
}
