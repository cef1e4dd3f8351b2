/* W3, a CIFAR-10 net, on a microcontroller; see probe.h. */
#define PROBE_LOSS NN_CROSS_ENTROPY
#define PROBE_LR 0.01f
#define PROBE_STEPS 2
#include "probe.h"

int main(void)
{
    static unsigned char x[32 * 32 * 3];
    static const int32_t label[1] = { 3 };
    float y[10];
    uint32_t i;
    for (i = 0; i < sizeof(x); i++) x[i] = (unsigned char)(i * 37 + i / 96 * 5);
    return probe(w3_rows, x, label, y, 10);
}
