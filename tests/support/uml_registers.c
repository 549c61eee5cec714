/*
 * Completes the registers that User-Mode Linux (UML) passes to ptrace(2). Loaded into UML with LD_PRELOAD.
 *
 * UML 6.12 saves the registers of a process in a buffer of fixed size. On processors with AMX, the registers do not fit
 * into the buffer. PTRACE_GETREGSET then returns only the first part, and PTRACE_SETREGSET refuses an incomplete set
 * (xstateregs_set() in arch/x86/kernel/fpu/regset.c of Linux), so that UML panics. This function adds the missing
 * part, which UML does not change, from the current registers of the process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(enum __ptrace_request, pid_t, void *, void *);
    static char registers[1 << 16];
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *), *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "ptrace");
    long result = next(request, pid, address, data);
    /* Do not check errno: a signal handler of UML can have changed it. */
    if (result == -1 && request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
        const struct iovec *given = data;
        struct iovec complete = {registers, sizeof registers};
        result = next(PTRACE_GETREGSET, pid, address, &complete);
        if (result == 0 && complete.iov_len > given->iov_len) {
            memcpy(registers, given->iov_base, given->iov_len);
            result = next(request, pid, address, &complete);
        }
    }
    return result;
}
