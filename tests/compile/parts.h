/* parts.h - of the program parts.c; after nn.h */

extern const nn_op op_negate;
