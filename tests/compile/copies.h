/* copies.h - the functions of three private copies: two in C, one in C++ */

#include <stdint.h>

enum { COPY_OUTPUTS = 8 };

#ifdef __cplusplus
extern "C" {
#endif
int copy_c(uint32_t bits[COPY_OUTPUTS]);
int copy_plain(uint32_t bits[COPY_OUTPUTS]); /* with NN_NO_SIMD */
int copy_cpp(uint32_t bits[COPY_OUTPUTS]);
#ifdef __cplusplus
}
#endif
