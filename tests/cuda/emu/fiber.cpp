/* Switching stacks: a dozen instructions on x86-64 (swapcontext asks the kernel twice, a hundred times slower), ucontext
 * elsewhere. */
#include "tests/cuda/emu/fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif

#ifdef EMU_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_BYTES = 256 * 1024 }; /* touched as needed; sanitizers make large frames */

static emu_fiber *coming_from; /* who switched last */

/* A fiber that just got the processor. */
static void arrived(emu_fiber *self)
{
#ifdef EMU_ASAN
    const void *bottom = NULL;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &size);
    if (coming_from && !coming_from->stack) { /* the host's stack, which only the sanitizer knows */
        coming_from->stack = const_cast<void *>(bottom);
        coming_from->stack_bytes = size;
    }
#else
    (void)self;
#endif
}

static void leaving(emu_fiber *from, emu_fiber *to)
{
    coming_from = from;
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#else
    (void)to;
#endif
}

static void *new_stack()
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *p = (char *)mmap(NULL, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0) {
        fprintf(stderr, "cuda emulator: no memory for a stack\n");
        abort();
    }
    return p + page;
}

#ifdef __x86_64__

extern "C" void emu_swap_stacks(void **save, void *load);
/* Callee-saved registers on the old stack, then those of the new one. */
__asm__(".text\n.globl emu_swap_stacks\n.hidden emu_swap_stacks\n.type emu_swap_stacks,@function\n"
        "emu_swap_stacks:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n"
        ".size emu_swap_stacks,.-emu_swap_stacks\n");

static emu_fiber *starting;
static void (*starting_main)();

static void first_entry()
{
    arrived(starting);
    starting_main();
    abort();
}

void emu_fiber_make(emu_fiber *f, unsigned i, void (*main)())
{
    f->made = true;
    f->stack = new_stack();
    f->stack_bytes = STACK_BYTES;
    uintptr_t top = (uintptr_t)f->stack + STACK_BYTES - i % 30 * 576;
    void **sp = (void **)(top & ~(uintptr_t)15);
    *--sp = NULL; /* where a return address would stand: keeps the entry's stack aligned */
    *--sp = (void *)first_entry;
    for (int r = 0; r < 6; r++)
        *--sp = NULL;
    f->sp = sp;
    starting_main = main;
}

void emu_fiber_switch(emu_fiber *from, emu_fiber *to)
{
    leaving(from, to);
    starting = to;
    emu_swap_stacks(&from->sp, to->sp);
    arrived(from);
}

#else

static emu_fiber *starting;
static void (*starting_main)();

static void first_entry()
{
    arrived(starting);
    starting_main();
    abort();
}

void emu_fiber_make(emu_fiber *f, unsigned i, void (*main)())
{
    (void)i;
    f->made = true;
    f->stack = new_stack();
    f->stack_bytes = STACK_BYTES;
    starting_main = main;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = NULL;
    makecontext(&f->context, first_entry, 0);
}

void emu_fiber_switch(emu_fiber *from, emu_fiber *to)
{
    leaving(from, to);
    starting = to;
    swapcontext(&from->context, &to->context);
    arrived(from);
}

#endif
