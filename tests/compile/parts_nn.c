/* parts_nn.c - the implementation after a mere declaration, which the op needs, and once more */

#include "nn.h"

#include "parts.h"

#define NN_OPS NN_INPUT, NN_DENSE, &op_negate
#define NN_IMPLEMENTATION
#include "nn.h"
#include "nn.h"
