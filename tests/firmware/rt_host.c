/* The run-time of the probes over a C library. */
#include "rt.h"

#include <stdio.h>
#include <string.h>

void rt_text(const char *text)
{
    fputs(text, stdout);
}

void rt_number(const char *label, uint32_t value)
{
    printf("%s %lu\n", label, (unsigned long)value);
}

void rt_floats(const char *label, const float *values, uint32_t n)
{
    uint32_t i, bits;
    printf("%s", label);
    for (i = 0; i < n; i++) {
        memcpy(&bits, values + i, 4);
        printf(" %08lx", (unsigned long)bits);
    }
    printf("\n");
}

void rt_mark(void)
{
}

void rt_paint(void)
{
}

uint32_t rt_stack(void)
{
    return 0;
}
