/* The thread of an engine. It runs the loop, and never takes the GIL. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "engine.h"

#define MAX_WAITING ((size_t)64 * 1024) /* bytes of records for which Python is not notified immediately */

static void notify(int fd)
{
    const uint64_t one = 1;
    ssize_t size = write(fd, &one, sizeof one); /* fails only if the eventfd is already readable */

    (void)size;
}

static void clear(int fd)
{
    uint64_t count;
    ssize_t size = read(fd, &count, sizeof count); /* fails only if the eventfd is not readable */

    (void)size;
}

/* Wait while Python has too many records to take. Return false if the thread must stop. */
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

/* Notify Python if urgent or many records wait, or the thread ends. Do so only once until Python takes the records.
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

static void *run(void *argument)
{
    struct engine *e = argument;
    int error = 0;

    while (!error && wait_for_python(e)) {
        error = engine_turn(e, -1);
        thread_report(e, error);
    }
    return NULL;
}

/* Start the thread. Return 0 or an error. All signals are blocked in the thread: Python's main thread handles them. */
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

/* Stop the thread, and wait until it has ended. A turn has no calls that block, so this takes milliseconds. */
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

/* Make the thread run commands. The caller has set `wake_pending`. */
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
