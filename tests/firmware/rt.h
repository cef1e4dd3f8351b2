/* What a probe may ask of the machine it runs on: rt_cm.c for Cortex-M under QEMU, rt_host.c for
   systems with a C library. */
#ifndef RT_H
#define RT_H

#include <stdint.h>

void rt_text(const char *text);
void rt_number(const char *label, uint32_t value); /* a line "label 123" */
void rt_floats(const char *label, const float *values, uint32_t n); /* "label 3f800000 ..." */

/* QEMU's plugin reports the instructions between two of these (insn.c). */
void rt_mark(void);

/* Bytes of stack that the calls made between the two used, 0 where that cannot be told. */
void rt_paint(void);
uint32_t rt_stack(void);

#endif
