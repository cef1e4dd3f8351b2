/* Start-up and semihosting for Cortex-M without a C library. What main returns becomes QEMU's exit
   status. */
#include "rt.h"

#define PAINT 0xA5A5A5A5u

extern uint32_t rt_data[], rt_data_end[], rt_data_load[], rt_bss[], rt_bss_end[];
extern uint32_t rt_stack_low[], rt_stack_top[];

int main(void);
void rt_reset(void);

static uint32_t *painted_from; /* the stack pointer when it was painted */

static void semihost(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void leave(uint32_t status)
{
    uint32_t block[2];
    block[0] = 0x20026; /* ADP_Stopped_ApplicationExit */
    block[1] = status;
    semihost(0x20, block); /* SYS_EXIT_EXTENDED */
    for (;;) {
    }
}

static void fault(void)
{
    rt_text("fault\n");
    leave(99);
}

void rt_reset(void)
{
    volatile uint32_t *to; /* volatile: no memcpy and memset, which are for the probes to pay */
    const uint32_t *from = rt_data_load;
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88u |= 0xF00000u; /* CPACR: the FPU is off after reset */
    __asm__ volatile("dsb\n\tisb");
#endif
    for (to = rt_data; to < rt_data_end; to++) *to = *from++;
    for (to = rt_bss; to < rt_bss_end; to++) *to = 0;
    leave((uint32_t)main());
}

typedef union vector {
    const void *stack;
    void (*handler)(void);
} vector;

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    { .stack = rt_stack_top }, { .handler = rt_reset }, { .handler = fault }, { .handler = fault },
    { .handler = fault }, { .handler = fault }, { .handler = fault }, { .handler = fault },
    { .handler = fault }, { .handler = fault }, { .handler = fault }, { .handler = fault },
    { .handler = fault }, { .handler = fault }, { .handler = fault }, { .handler = fault }
};

void rt_text(const char *text)
{
    semihost(0x04, text); /* SYS_WRITE0 */
}

void rt_number(const char *label, uint32_t value)
{
    char digits[12], *p = digits + sizeof(digits);
    *--p = 0;
    *--p = '\n';
    do {
        *--p = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    rt_text(label);
    rt_text(" ");
    rt_text(p);
}

void rt_floats(const char *label, const float *values, uint32_t n)
{
    char word[10];
    uint32_t i;
    int digit;
    rt_text(label);
    for (i = 0; i < n; i++) {
        union {
            float value;
            uint32_t bits;
        } u;
        u.value = values[i];
        word[0] = ' ';
        for (digit = 0; digit < 8; digit++)
            word[1 + digit] = "0123456789abcdef"[u.bits >> (28 - 4 * digit) & 15];
        word[9] = 0;
        rt_text(word);
    }
    rt_text("\n");
}

__attribute__((noinline)) void rt_mark(void)
{
    __asm__ volatile(""); /* or the compiler would drop the call */
}

__attribute__((noinline)) void rt_paint(void)
{
    volatile uint32_t *p; /* volatile: no call of memset, which would lie in what it paints */
    uint32_t *sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    painted_from = sp;
    for (p = rt_stack_low; p < sp; p++) *p = PAINT;
}

__attribute__((noinline)) uint32_t rt_stack(void)
{
    const volatile uint32_t *p = rt_stack_low;
    while (p < painted_from && *p == PAINT) p++;
    return (uint32_t)(painted_from - p) * 4;
}
