/* W1, a 10-64-1 regression, on a microcontroller; see probe.h. */
#define PROBE_LOSS NN_MSE
#define PROBE_LR 0.01f
#define PROBE_STEPS 10
#include "probe.h"

int main(void)
{
    static const float x[10] = {
        -1.0f, -0.75f, -0.5f, -0.25f, 0.0f, 0.25f, 0.5f, 0.75f, 1.0f, 1.25f
    };
    static const float target[1] = { 0.5f };
    float y[1];
    return probe(w1_rows, x, target, y, 1);
}
