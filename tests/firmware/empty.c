/* The image that others are compared with: all of the run-time and nothing else. */
#include "rt.h"

int main(void)
{
    static const float one = 1.0f;
    rt_mark();
    rt_mark();
    rt_paint();
    rt_number("stack", rt_stack());
    rt_floats("output", &one, 1);
    return 0;
}
