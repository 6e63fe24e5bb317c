/* A stack that the processor can be switched to: what the emulator runs a CUDA thread on. */
#ifndef EM_TESTS_CUDA_EMU_FIBER_H
#define EM_TESTS_CUDA_EMU_FIBER_H

#include <stddef.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

struct emu_fiber {
    bool made;
    void *sp; /* where it left off */
    void *stack;
    size_t stack_bytes;
    void *fake_stack; /* the address sanitizer's */
#ifndef __x86_64__
    ucontext_t context;
#endif
};

/* i shifts the stack's top, so that the hot lines of many fibers do not meet in the same cache sets. main never
 * returns. The host's own fiber needs no making. */
void emu_fiber_make(emu_fiber *f, unsigned i, void (*main)());
void emu_fiber_switch(emu_fiber *from, emu_fiber *to);

#endif
