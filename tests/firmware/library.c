/* The library as firmware compiles it: once, in a file of its own. The compiler's command line says
   the rest: NN_NO_TRAIN, and as NN_OPS the ops that files may name. */
#define NN_NO_STRINGS
#define NN_IMPLEMENTATION
#include "../../nn.h"
