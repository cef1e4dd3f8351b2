/* nn.h - v0.1.0 - run and fine-tune neural nets in C
   Public domain or MIT-0, at your choice: see the end of the file.

   Do this in ONE C or C++ file, before the include, to create the implementation:

       #define NN_IMPLEMENTATION
       #include "nn.h"

   Everywhere else just include it. C99 or C++11 and later; no dependencies.

   >>contents

   Search for the anchors; there are no line numbers to go stale.

     Part 1, manual          >>quickstart >>manual >>format >>config >>changes
     Part 2, interface       >>version >>types >>api
     Part 3, implementation  >>platform >>util >>math >>random >>dispatch >>fields >>rows >>text
                             >>plan >>ops >>losses >>optim >>run >>fit >>data >>file >>tokenizer
                             >>debug >>stamps
     Part 4, kernels         >>vector >>transcendental >>gemm >>elementwise >>cells >>updates
                             >>end

   >>quickstart ----------------------------------------------------------------------------------

   A model is an array of rows. Train it, save it, load it, run it:

       static const nn_layer net[] = {
           { .op = NN_INPUT, .shape = { 2 } },
           { .op = NN_DENSE, .units = 16, .act = NN_TANH },
           { .op = NN_DENSE, .name = "head", .units = 1, .act = NN_SIGMOID },
           { 0 }
       };
       nn_opts o = { .batch = 4, .train = "*", .loss = NN_BCE, .optimizer = NN_ADAM, .lr = 0.05f };
       nn_model m;
       nn_build(&m, net, &o);
       for (int i = 0; i < 500; i++) nn_train(&m, x, y, 4);
       nn_save_file(&m, "xor.nn", 0);
       nn_free(&m);
       nn_load_file(&m, "xor.nn", NULL);
       nn_infer(&m, x, out, 4);

   In C++11 and older dialects, where rows cannot be designated, the same model is text:

       nn_build_text(&m, "input in - shape=2; dense a in units=16 act=tanh;"
                         "dense head a units=1 act=sigmoid", &o);

   Check the result of every call that returns int: 0 is success. Give nn_opts.why a buffer and
   print it.

   >>manual --------------------------------------------------------------------------------------

   1. Conventions

   Images are [H,W,C], channels last, batches in front. Weights are given, returned and stored in
   PyTorch's shapes and order: dense [out,in], conv2d [out, in / groups, kh, kw]. All sizes are
   int32; memory is counted in bytes. Every call that can fail returns 0 or a negative NN_ERR_
   value and writes one sentence that names the row and the numbers to nn_opts.why. NULL for an
   optional pointer means what its comment says; NULL for m, x, y or rows where not allowed is an
   error, not undefined. There are no mutable globals: two models may be used in two threads; one
   model is used by one thread at a time. After nn_build or nn_load nothing allocates, and no call
   can run out of memory.

   2. Rows

   The first row is the input; every other row reads the row above it, or the row named by .from,
   and further inputs named by .with. A row without a name is called by its stem and the running
   count of its op: conv1, conv2, dense1. The last row is the output.

     op                 stem     fields                                     tensors
     NN_INPUT           input    shape type order scale mean std
     NN_DENSE           dense    units act slope no_bias                    weight [out,in]
                                                                            bias [out]
     NN_CONV2D          conv     units act slope kernel stride dilation     weight [out,in/g,kh,kw]
                                 pad groups no_bias                         bias [out]
     NN_CONV1D          conv     the same                               weight [out,in/g,k]
                                                                            bias [out]
     NN_MAXPOOL2D       pool     kernel stride pad
     NN_MAXPOOL1D       pool     the same
     NN_AVGPOOL2D       avgpool  kernel stride pad count_pad
     NN_AVGPOOL1D       avgpool  the same
     NN_GLOBALAVGPOOL   gap
     NN_GLOBALMAXPOOL   gmp
     NN_BATCHNORM       norm     eps momentum biased act slope              weight bias running_mean
                                                                            running_var, all [C]
     NN_DROPOUT         dropout  rate
     NN_FLATTEN         flatten  order
     NN_ADD             add      act slope   (with names the other operands)
     NN_ACTIVATION      act      act slope
     NN_EMBEDDING       embedding  vocab units pad_id mask sparse      weight [vocab,units]
     NN_LSTM            lstm     units layers bidirectional last rate  weight_ih_l0 [4 units,in]
                                 no_bias one_bias                      weight_hh_l0 [4 units,units]
                                                                       bias_ih_l0 bias_hh_l0
     NN_GRU             gru      the same, reset_before                the same, 3 units
     NN_RNN             rnn      the same as lstm, act                 the same, 1 units

   Every row also takes name, from and share; rows with tensors take lr and no_decay.

     dense       acts on the last dimension: y[..., o] = act(sum_i x[..., i] w[o, i] + b[o])
     conv2d      cross-correlation, y[oy, ox, o] =
                 act(b[o] + sum x[oy * s - pad + kh * d, ..., ci] w[o, ci, kh, kw]);
                 output size floor((in + pads - d (k - 1) - 1) / s) + 1
     pools       the same size rule; padding never wins a maximum; an average divides by the
                 elements inside the image, or by kh * kw with count_pad. Pads must be smaller than
                 the kernel
     1d          conv1d and the pools so called act along the steps of [T,C], with one element of
                 kernel, stride and dilation, and two of pad: as 2d on [1,T,C]
     gap, gmp    mean and maximum over H and W, or over the steps of a sequence that count (0 if
                 none): [C]
     batchnorm   over the last dimension. While its row trains: batch mean and biased batch
                 variance, and the running statistics move once an update; frozen or in
                 inference: the running statistics. Shared rows share the statistics too
     dropout     while training and above the lowest trainable row: zero with probability rate, else
                 x / (1 - rate); else nothing
     flatten     [H,W,C] or [T,C] to [N], as it lies; order = NN_CHW: as [C,H,W], when the next
                 row's weights were trained on channels first
     add         sum of inputs of one shape, in the order from, with...
     softmax     over the last dimension
     embedding   y[t] = weight[id[t]], from an input with type = NN_I32 and shape {T}: [T,units]
     lstm        i, f, o = s(.), g = tanh(.) of W_ih x + b_ih + b_hh + W_hh h, in the order i, f, g,
                 o; c = f c + i g, h = o tanh(c). From [T,N] to all h, [T,units], or with last the
                 last one, [units]
     gru         r, z = s(W_ih x + b_ih + W_hh h + b_hh), n = tanh(W_in x + b_in + r (W_hn h +
                 b_hn)), h = n + z (h - n), in the order r, z, n; reset_before: n = tanh(W_in x +
                 b_in + W_hn (r h))
     rnn         h = act(W_ih x + b_ih + b_hh + W_hh h), tanh or relu

   Layers and directions have tensors of their own, named as PyTorch's: _l0, _l0_reverse, _l1.
   bidirectional gives [T,2 units], forward's elements first; last then has the state after the last
   step and backward's after the first. Sequences of several lengths: nn_set_lengths, or an
   embedding's mask; both also reach rows above through all that keeps steps steps (not convolutions
   and pools). Streams, one step at a time: opts.steps = 1, opts.stateful, nn_step.

   3. Losses, from logits

     NN_MSE            mean over samples and outputs of (y - t)^2
     NN_BCE            mean of -(t log s(z) + (1 - t) log(1 - s(z))), targets 0 to 1
     NN_CROSS_ENTROPY  mean over samples (and positions) of -log softmax(z)[label], labels int32

   When the last row ends in sigmoid (BCE) or softmax (cross-entropy) the loss takes the value
   before that activation, while inference returns probabilities; otherwise its output is taken as
   logits.

   4. Optimizers: PyTorch's

     NN_SGD    g += weight_decay p; v = momentum v + g; p -= lr v
     NN_ADAM   g += weight_decay p; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g^2;
               p -= lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)        NN_EPS_PYTORCH
               p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)      NN_EPS_KERAS (and ONNX)

   5. Initial weights, from nn_opts.seed

     NN_INIT_PYTORCH   weight and bias uniform in +-1 / sqrt(fan_in)
     NN_INIT_KERAS     weight uniform in +-sqrt(6 / (fan_in + fan_out)), bias zero
     batchnorm         weight 1, bias 0, running_mean 0, running_var 1
     lstm, gru, rnn    NN_INIT_PYTORCH: all uniform in +-1 / sqrt(units); NN_INIT_KERAS: as above
                       (Keras itself: orthogonal weight_hh, and 1 for the forget gate's bias)
     embedding         NN_INIT_PYTORCH: uniform of variance 1, pad_id's vector 0; NN_INIT_KERAS:
                       uniform in +-0.05

   6. Fine-tuning

   nn_opts.train decides: NULL for inference, "*" for everything, or patterns of row names such as
   "head" or "conv3* head". All other rows are frozen, and frozen means inference: batch norm uses
   its running statistics and does not move them, dropout below the lowest trainable row is off. A
   frozen trunk is a pure function, so its output can be computed once per sample (nn_infer_to) and
   trained on many times (nn_train_from): the same result, a fraction of the work. nn_snapshot
   before and nn_rollback after let a device keep an update only when it helped.

   7. Memory

   Everything lies in one block: the caller's or one malloc. nn_memory says how many bytes,
   exactly, the same number on every machine. Buffers are reused as soon as their content is dead,
   activations are computed in place, and a max pool after a convolution is computed with it, so
   that the large map never exists. Only tensors that train have gradients and optimizer state;
   activations are kept only for rows that train and rows above them. fuse_update drops the
   gradients, budget splits the batch, in_place leaves frozen weights in flash.

   8. The same bits everywhere

   Same rows, weights, inputs and seed: the same bits, in inference and in training, on every
   machine and compiler, because every sum has one fixed order and every product that meets a sum
   is a fused multiply-add. Machines without such an instruction emulate it exactly; NN_FAST_MULADD
   gives the promise up for speed there. NaN payloads and programs that flush subnormals to zero are
   outside the promise. Do not compile with -ffast-math. nn_digest makes 64 bits of all parameters:
   compare those. Sums over k run from first to last, from +0; the bias is added last; lstm and rnn
   go on from W_ih x + b_ih with those over h, and add b_hh last. A dense row with fewer than 16
   outputs (or, for its input gradient, fewer than 16 inputs) and sums along a vector (softmax,
   losses) use 16 partial sums, element i in number i mod 16, joined as halves: 8, 4, 2, 1. Sums
   over samples and positions run in index order; for the weights of lstm, gru and rnn sample by
   sample, each from its last step to its first, and never in 16 partial sums.

   9. Speed

   The kernels are plain C, and the same text compiled once more for AVX2 with FMA and for AVX-512
   (x86, gcc and clang) or NEON (64-bit ARM). nn_build chooses by what the CPU has; no flag is
   needed but -O1 or more, and -march changes nothing. gcc for Windows cannot align vectors on its
   stack and gets the FMA instruction only: use clang there. Other compilers get plain C.
   nn_kernels_name says which, nn_set_kernels forces others. A build that has vector kernels takes
   up to 64 KB of stack to compute; what one without takes, make size prints. One thread; two models
   are independent in two.
   Fastest: batches, numbers of outputs and channels that are multiples of 16, weights that fit
   into the second-level cache. fuse_update writes and reads no gradients.

   10. Ops of your own

   An op is a constant nn_op whose functions stand in any C file that includes this header; rows
   point at it (.op = &my_op). Files that use it load where NN_OPS lists it. For now such an op has
   no tensors, no fields and no activation of its own; what its functions must do stands at nn_op.

   Does not: parse Python, differentiate arbitrary code, use threads of its own, print unless
   nn_fit or nn_print are called, read environment variables, or touch the floating-point
   environment.

   >>format --------------------------------------------------------------------------------------

   A model file is a .safetensors file that any reader of that format opens, within these rules
   (version 1.0).

     0      u64 little-endian N, length of the header
     8      N bytes of JSON, ASCII, padded with spaces so that 8 + N is a multiple of 64
     8 + N  the tensors, back to back; the file ends with the last

     {"__metadata__":{"nn.crc32":"xxxxxxxx","nn.version":"1.0","nn.kind":"model","nn.graph":"1;...",
     "format":"pt"},"conv1.weight":{"dtype":"F32","shape":[32,3,3,3],"data_offsets":[0,3456]},...}

   nn.crc32 is the CRC-32 (ISO-HDLC, as zlib's) of the whole file with its eight digits, which
   always stand at offset 37, set to '0'. A file with any nn. key must have it; one without is a
   plain state dict, for nn_load_params. Tensors are ordered by falling alignment of their size (up
   to 64 bytes), then as the rows are, so that a tensor of 64 n bytes starts at a multiple of 64
   without padding. Names and layouts are PyTorch's. aux.NAME are bytes of the application's, U8 of
   one dimension, last among those of an alignment. nn.kind is model or train; a train file adds
   nn.train and opt.mom/NAME, opt.m/NAME, opt.v/NAME. nn.req lists features a reader must know;
   this one knows none.

   Rows as text (nn.graph and nn_build_text): rows are joined by ';', the first may be the version
   "1". A row is

     op name input[,input] key=value ...
     input x - shape=32,32,3 type=u8; conv2d c1 x units=32 kernel=3,3

   with ops called as after NN_, in lower case (conv2d, activation), the field names above as keys,
   several values joined by commas, names for type (f32, u8, i32), order (hwc, chw) and act (linear,
   relu, leaky_relu, sigmoid, tanh, softmax), and reals as decimals or, exactly, as x and the eight
   hex digits of their bits; files hold only the latter. '-' stands for no input. share=name works
   as in rows. pad_id is the id plus 1. Keys beginning with '_' are ignored.

   >>config: define before the implementation ----------------------------------------------------

     NN_STATIC         everything static: a private copy in this file
     NN_NO_TRAIN       no training, losses or optimizers
     NN_NO_STDIO       no files by path, no printing to stdout
     NN_NO_MALLOC      no malloc: nn_opts.memory must be given
     NN_NO_LIBC        no C library header but stdint, stddef, stdarg, float and limits; implies the
                       two above
     NN_NO_STRINGS     no error sentences, no nn_print
     NN_NO_PLANNER     no nn_memory, nn_build, nn_load, nn_clone: models come from constant plans
                       (nn_open)
     NN_NO_SIMD        plain C kernels compiled with the file's own flags only
     NN_FAST_MULADD    without a fused multiply-add instruction: a * b + c (gives up equal bits)
     NN_OPS            ops that text and files may name: #define NN_OPS NN_INPUT, NN_DENSE
     NN_MALLOC, NN_FREE, NN_MEMCPY, NN_MEMSET    replacements of the C library's
     NN_SYNC(file), NN_TERMINAL(), NN_RENAME(from, to)    the same, together
     NN_HEADER         name of this file for its own #include, default "nn.h"

   >>changes -------------------------------------------------------------------------------------

     0.1.0  first version
*/

/* ==========================================================================================
   Part 2: interface
   ========================================================================================== */
#ifndef NN_H
#define NN_H

/* >>version ---------------------------------------------------------------------------------- */
#define NN_VERSION "0.1.0"
#define NN_FORMAT_VERSION "1.0" /* of model files; see >>format */

#include <stddef.h>
#include <stdint.h>

#ifdef NN_NO_LIBC
#ifndef NN_NO_STDIO
#define NN_NO_STDIO
#endif
#ifndef NN_NO_MALLOC
#define NN_NO_MALLOC
#endif
#endif

#if defined(__cplusplus) && !defined(NN_STATIC)
extern "C" {
#endif

#ifndef NNDEF
#ifdef NN_STATIC
#if defined(__GNUC__)
#define NNDEF static __attribute__((unused))
#else
#define NNDEF static
#endif
#else
#define NNDEF extern
#endif
#endif

/* A memory block must start at a multiple of this: NN_ALIGN static unsigned char block[5000]; */
#define NN_ALIGNMENT 16
#if defined(__GNUC__)
#define NN_ALIGN __attribute__((aligned(16)))
#elif defined(_MSC_VER)
#define NN_ALIGN __declspec(align(16))
#else
#define NN_ALIGN
#endif

/* >>types ------------------------------------------------------------------------------------ */

/* Every call that can fail returns 0 or one of these; a sentence goes to nn_opts.why unless
   NN_NO_STRINGS is defined. */
#define NN_ERRORS(X)                                                                              \
    X(ROW, -1, "a row of the table is wrong")                                                     \
    X(OPTION, -2, "an option is wrong or does not fit the rows")                                  \
    X(MEMORY, -3, "the block is too small, or malloc failed")                                     \
    X(ALIGN, -4, "a pointer is not aligned as it must be")                                        \
    X(CALL, -5, "the model was not planned for this call, or an argument is wrong")               \
    X(NAME, -6, "no row or tensor has this name")                                                 \
    X(LABEL, -7, "a label, target, id or length is out of range")                                 \
    X(NAN, -8, "the loss is not finite; the parameters are as they were")                         \
    X(IO, -9, "reading or writing failed")                                                        \
    X(CANCELLED, -10, "a callback asked to stop")                                                 \
    X(FLOAT, -11, "this program reorders arithmetic (-ffast-math or a part of it?)")              \
    X(FILE_SHORT, -20, "the header's length does not fit the file or the limit")                  \
    X(FILE_SYNTAX, -21, "the header is not the strict JSON of a safetensors file")                \
    X(FILE_META, -22, "the metadata is wrong")                                                    \
    X(FILE_DTYPE, -23, "a tensor has an unknown type, or a dimension out of range")               \
    X(FILE_SIZE, -24, "the bytes of a tensor do not fit its shape")                               \
    X(FILE_ORDER, -25, "tensors overlap or leave a hole")                                         \
    X(FILE_END, -26, "the file does not end at its last tensor")                                  \
    X(FILE_TAIL, -27, "something follows the header's closing brace")                             \
    X(FILE_CRC, -28, "the checksum is wrong")                                                     \
    X(FILE_TENSOR, -29, "a tensor is missing, double, unknown or of another shape")               \
    X(FILE_GRAPH, -30, "the rows in the file are wrong")                                          \
    X(FILE_VERSION, -31, "the file needs a newer reader")

enum {
    NN_OK = 0,
#define NN__X(name, value, text) NN_ERR_##name = value,
    NN_ERRORS(NN__X)
#undef NN__X
};

/* Element types of an input row, activations, orders, losses and optimizers. The first of each is
   what zero means. */
enum { NN_F32 = 0, NN_U8 = 1, NN_I32 = 2 };
enum { NN_HWC = 0, NN_CHW = 1 };
enum { NN_LINEAR = 0, NN_RELU, NN_LEAKY_RELU, NN_SIGMOID, NN_TANH, NN_SOFTMAX };
enum { NN_NO_LOSS = 0, NN_MSE, NN_BCE, NN_CROSS_ENTROPY };
enum { NN_SGD = 0, NN_ADAM };
enum { NN_EPS_PYTORCH = 0, NN_EPS_KERAS };
enum { NN_INIT_PYTORCH = 0, NN_INIT_KERAS };

typedef struct nn_op nn_op;
typedef struct nn_model nn_model;
typedef struct nn_progress nn_progress;

/* One row of a model. Zero means the default of every field; a field set on a row whose op ignores
   it is an error. Which op reads which field stands in >>manual. Rows are not copied: they outlive
   the model. */
typedef struct nn_layer {
    const nn_op *op;   /* NN_DENSE, NN_CONV2D, ...; NULL ends the table */
    const char *name;  /* of the row, [A-Za-z0-9._/-], at most 127 bytes, not beginning with -, opt.
                          or aux.; NULL: stem and count ("conv1") */
    const char *from;  /* name of the row whose output is the input; NULL: the row above */
    const char *with;  /* names of further inputs, separated by spaces (add); NULL: none */
    const char *share; /* use that row's tensors of the same suffix and shape; NULL: own tensors.
                          A dense row may use an embedding's weight [vocab,units] */

    int32_t shape[3];  /* input: {H,W,C}, {T,C} or {N}; unused dimensions are zero */
    int32_t type;      /* input: NN_F32 (0), NN_U8, or NN_I32: ids for an embedding, {T} */
    int32_t order;     /* NN_HWC (0) or NN_CHW. input: how the caller's samples lie; flatten: the
                          order in which the weights of the next row count their inputs */
    float scale;       /* input: y = (x * scale - mean[c]) / std[c]; 0: 1 */
    float mean[4];     /* input: by channel; 0: none. Needs at most 4 channels */
    float std[4];      /* input: by channel; 0: 1 */

    int32_t units;     /* dense: outputs; convolution: output channels; embedding: elements of a
                          vector; lstm, gru, rnn: elements of the state. Required */
    int32_t act;       /* activation after the row: NN_LINEAR (0), NN_RELU, ...; rnn: inside,
                          NN_TANH (also 0) or NN_RELU */
    float slope;       /* NN_LEAKY_RELU's slope for x <= 0; 0: 0.01 */
    int32_t kernel[2]; /* height, width; a zero width: the height; 1d: one size. Required for
                          convolutions and pools */
    int32_t stride[2]; /* 0: 1 for convolutions, the kernel's size for pools; a zero second one: the
                          first */
    int32_t dilation[2]; /* 0: 1; a zero second one: the first */
    int32_t pad[4];      /* top, left, bottom, right; 1d: before, behind; 0: none */
    int32_t groups;      /* convolutions: 0: 1. groups == input channels is a depthwise one */
    int32_t no_bias;     /* dense, convolutions, lstm, gru, rnn: 1: no bias */
    float eps;           /* batchnorm: added to the variance; 0: 1e-5 */
    float momentum;      /* batchnorm: weight of the new batch in the running statistics, as
                            PyTorch's (Keras' 0.99 is 0.01 here); 0: 0.1 */
    int32_t biased;      /* batchnorm: running variance from 0: n - 1 (PyTorch), 1: n (Keras) */
    float rate;          /* probability of dropping, 0 < rate < 1. dropout: required; lstm, gru,
                            rnn: between layers, 0: none */
    int32_t count_pad;   /* avgpool: 1: padding counts in the mean (PyTorch's default); 0: it
                            does not */
    int32_t vocab;       /* embedding: rows of the table: ids are 0 to vocab - 1. Required */
    int32_t pad_id;      /* embedding: NN_ID(id): the vector of this id gets no gradient, as
                            PyTorch's padding_idx; 0: none */
    int32_t mask;        /* embedding: 1: lstm, gru and rnn skip the steps that hold pad_id, as
                            Keras' mask_zero */
    int32_t sparse;      /* embedding: 1: the gradient is kept for the ids of opts.batch samples
                            only (more cannot be summed before nn_zero_grad), and an update changes
                            only vectors whose gradient is not zero: the same under SGD, and for
                            Adam as PyTorch's SparseAdam (with NN_EPS_KERAS). Not with momentum,
                            weight decay, share or a hook. 0: all vectors, as PyTorch by default */
    int32_t layers;      /* lstm, gru, rnn: stacked ones; 0: 1 */
    int32_t bidirectional; /* lstm, gru, rnn: 1: a second one from the last step to the first; the
                            outputs are forward's, then backward's */
    int32_t last;        /* lstm, gru, rnn: 1: only the last state, [N]; 0: all steps, [T,N] */
    int32_t one_bias;    /* lstm, gru, rnn: 1: no bias_hh (Keras); 0: two biases (PyTorch) */
    int32_t reset_before; /* gru: 1: the reset gate acts before the product (Keras'
                             reset_after=False); 0: behind it (PyTorch) */
    float lr;            /* factor on the learning rate of this row; 0: 1 */
    int32_t no_decay;    /* 1: no weight decay on this row */
} nn_layer;

#define NN_ID(id) ((id) + 1) /* for nn_layer.pad_id, where 0 is an id and none must be told apart */

/* Called by nn_train and nn_fit between backward and update (nn_update does not: there nn_flat_grad
   is at hand) with all gradients as one flat array (order opaque, equal for
   equal rows and options), to average them over machines for example. Non-zero: the step ends,
   nothing is updated, and that value is returned. */
typedef int nn_grad_hook(void *user, float *grad, uint32_t count);

/* Receives what nn_save and nn_print write, piece by piece. Returns 0, or non-zero to stop. */
typedef int nn_write_fn(void *user, const void *bytes, size_t size);

/* Bytes of the application's own (a vocabulary, names of classes) that travel in a model's file, as
   the U8 tensor aux.NAME. */
typedef struct nn_aux {
    const char *name; /* as names of rows; NULL ends a list */
    const void *bytes;
    size_t size; /* 1 to 2^31 - 1 */
} nn_aux;

/* Options of nn_build and nn_load. Zero-initialise; every zero is a sensible default. */
typedef struct nn_opts {
    void *memory;        /* block for everything, aligned to NN_ALIGNMENT; NULL: one malloc (an
                            error under NN_NO_MALLOC). Outlives the model */
    size_t memory_size;  /* its bytes; nn_memory says how many it takes */
    int32_t batch;       /* largest number of samples in one training step, and how many inference
                            takes at once (more are taken in turns); 0: 1 */
    int64_t budget;      /* bytes the block may take: the batch is split into micro-batches, then
                            lstm, gru and rnn keep less and compute it again, until it fits (the
                            same result); 0: no bound */
    const char *train;   /* NULL: inference; "*": everything; "head" or "conv3* head": these rows,
                            the rest frozen. A pattern that matches no row with parameters is an
                            error. Outlives the model, for nn_save stores it */
    int32_t loss;        /* NN_MSE, NN_BCE, NN_CROSS_ENTROPY; required to train or nn_eval */
    int32_t optimizer;   /* NN_SGD (0) or NN_ADAM */
    float lr;            /* learning rate; required with something to train */
    float momentum;      /* SGD; 0: none */
    float beta1, beta2;  /* Adam; 0: 0.9 and 0.999 */
    float eps;           /* Adam; 0: 1e-8, or 1e-7 with NN_EPS_KERAS */
    int32_t eps_mode;    /* NN_EPS_PYTORCH (0): sqrt(v / (1 - b2^t)) + eps; NN_EPS_KERAS: sqrt(v) +
                            eps */
    float weight_decay;  /* L2, added to the gradient as PyTorch does; 0: none */
    uint64_t seed;       /* of initial weights, dropout and shuffling */
    int32_t init;        /* NN_INIT_PYTORCH (0) or NN_INIT_KERAS */
    int32_t fuse_update; /* 1: weights change during backward and no gradient is kept (the least
                            memory); refused where something needs the gradient */
    int32_t input_grad;  /* 1: nn_backward can return the gradient of the input */
    int32_t steps;       /* length T of sequences to plan for, instead of the input row's; 1: for
                            nn_step. 0: as the row says */
    int32_t stateful;    /* 1: lstm, gru and rnn begin with the state that the last call (of
                            nn_infer, nn_step, nn_train, nn_forward) left, sample by sample of the
                            batch, until nn_reset; training is then truncated backpropagation
                            through time. 0: with zeros */
    int32_t in_place;    /* 1: tensors that do not train are used where they lie, in opts.weights
                            or in the file image given to nn_load, which then outlives the model;
                            0: copied */
    int32_t resume;      /* nn_load: 1: continue the training stored in the file: optimizer state,
                            step, seed, and every number and choice of loss and optimizer that is
                            zero here. train must be given again; a disagreement is an error */
    const void *weights; /* nn_build: all tensors as native floats in row order and PyTorch's
                            layouts, aligned to 4; NULL: initial values from the seed */
    size_t weights_size; /* its bytes, checked */
    const nn_aux *aux;   /* what nn_save stores besides, a list; outlives the model. NULL: nothing;
                            for nn_load: what the file holds, which then lies in the block (with
                            in_place: in the file), see nn_get_aux */
    nn_grad_hook *hook;  /* NULL: none */
    void *hook_user;
    char *why;           /* error sentences are written here, ended by a zero byte; NULL: none.
                            Outlives the model */
    size_t why_size;
} nn_opts;

/* One step of the plan. Commands hold no pointers: x, y and the others are byte offsets into the
   block, or one of the NN_AT_ values. What a field is for a given command stands in >>plan. */
typedef struct nn_cmd {
    uint8_t what;  /* NN__FORWARD and so on */
    uint8_t flags; /* NN__TRAINING and so on */
    uint16_t row;
    uint32_t x, y, dx, dy, keep, tmp, x2;
} nn_cmd;

#define NN_AT_NONE 0xFFFFFFFFu  /* not there */
#define NN_AT_INPUT 0xFFFFFFFEu /* the caller's samples */

/* What planning found out about a row. */
typedef struct nn_row {
    int32_t dim[3];   /* output shape {H,W,C}, {T,C} or {N}; unused dimensions: 1 at the front */
    uint8_t ndim;     /* how many of them the row really has */
    uint8_t act;      /* activation that the row applies itself */
    uint8_t inputs;   /* how many */
    uint8_t tensors;  /* how many */
    uint16_t input;   /* first input: index into the list of inputs */
    uint16_t tensor;  /* first tensor: index into the list of tensors */
    uint16_t act_row; /* row whose slope the activation reads (itself, or one folded into it) */
    uint16_t fused;   /* max pool done inside this convolution, or its own index */
    uint16_t masked;  /* 0: every step counts; 1: those within a sample's length; 2 + k: of those,
                         the ones that do not hold the pad_id of embedding row k */
    uint16_t flags;   /* NN__TRAINS and so on, see >>plan */
} nn_row;

/* A parameter or running statistic. dim is PyTorch's shape; the memory layout is opaque. */
typedef struct nn_tensor {
    uint32_t offset; /* of the values, in bytes, in the block, the image or the parent's block */
    uint32_t grad;   /* of the gradient, in the block; NN_AT_NONE: none */
    uint32_t state;  /* of momentum or Adam's m (v follows it), in the block; NN_AT_NONE: none */
    uint32_t count;  /* elements */
    int32_t dim[4];
    uint16_t row;    /* first row that uses it */
    uint16_t alias;  /* itself, or the tensor that this one shares */
    uint8_t ndim, suffix, layout, flags;
} nn_tensor;

/* A model: caller-owned, never copied by assignment, zeroed by nn_free. Fields are for reading,
   except opts.lr, which may be changed between steps. */
struct nn_model {
    nn_opts opts;            /* with defaults filled in */
    const nn_layer *rows;
    unsigned char *block;    /* everything below lies in it */
    size_t block_size;       /* bytes in use: what nn_memory said */
    void *owned, *owned_file; /* what nn_free frees */
    const unsigned char *image;  /* read-only weights (NN__IMAGE), or NULL */
    const unsigned char *parent; /* block of the model this one was cloned from, or NULL */
    const struct nn_kernels *kernels; /* see nn_kernels_name */
    nn_row *row;             /* [row_count] */
    uint16_t *input;         /* [input_count] rows that are inputs of rows */
    nn_tensor *tensor;       /* [tensor_count] */
    nn_cmd *cmd;             /* inference, then forward, backward, update */
    uint32_t row_count, input_count, tensor_count;
    uint32_t infer_count, forward_count, backward_count, update_count;
    uint32_t grad_offset, grad_count; /* the flat gradient, in bytes and floats */
    uint32_t state_offset, state_count;
    uint32_t moves_end;      /* tensors that training changes end here */
    uint32_t loss_offset;    /* float[batch], the loss of every sample */
    uint32_t carry_offset;   /* float[batch][carry_size]: the states of a stateful model */
    int32_t carry_size;      /* floats of a sample's states */
    const int32_t *lengths;  /* the caller's, see nn_set_lengths */
    int32_t micro;           /* samples the buffers hold; less than opts.batch under a budget */
    int32_t tight;           /* 1: under a budget, recurrent rows keep less and compute it again */
    int32_t in_size, out_size; /* elements of one sample's input and output */
    uint64_t step;           /* updates done */
    uint64_t beta1_power, beta2_power; /* beta^step as Q63 fractions */
    float loss;              /* mean loss of the last nn_train, nn_forward or nn_eval */
    int32_t correct;         /* right answers of the last nn_train, nn_forward or nn_eval */
    struct {                 /* what is being executed */
        int (*exec)(nn_model *m);
        const unsigned char *data, *x, *target; /* the caller's; x: of the first sample of this
                                                   turn */
        const float *features; /* the caller's, when a run begins behind a frozen row */
        float *y, *dx;
        size_t feature_size, leave_size; /* elements of a sample that enter and leave */
        uint32_t enter, leave;   /* where they do */
        uint32_t start, pc, turn_end, end; /* commands: first of a turn, next, behind a turn,
                                              behind all */
        int32_t batch;           /* samples whose batch statistics are kept for the update */
        int32_t n, at, count;    /* samples: of this turn, before it, in all */
        int32_t first;           /* number of the first sample within the data set */
        uint32_t period, epoch;  /* samples in the data set when they are shuffled, else 0; key of
                                    the order */
        uint32_t sample, accumulated; /* samples of this step before this turn; since the last
                                         update */
        uint64_t step;           /* of the masks */
        int has_grad;            /* nn_backward was called since the gradients were zeroed */
        int forward_done;        /* 1: nn_forward was called, 2: with a target */
        int carries;             /* states go on from those of the last call */
    } run;
};

/* A plan as constant data, which tools/nntool.py c writes: what nn_build would find out, so that
   firmware links neither planner nor loader and knows its memory as a constant. The fields are
   nn_model's; no tables lie in the block. tensor is not const where gradients are kept. */
typedef struct nn_plan {
    const nn_layer *rows;
    const nn_row *row;
    const uint16_t *input;
    const nn_tensor *tensor;
    const nn_cmd *cmd;
    const void *weights;       /* used in place, as nn_opts.weights */
    void (*init)(nn_model *m); /* nn_plan_init where something trains or is copied; NULL: nothing */
    nn_opts opts;              /* without pointers but train */
    uint32_t memory;           /* bytes of the block */
    uint32_t row_count, input_count, tensor_count;
    uint32_t infer_count, forward_count, backward_count, update_count;
    uint32_t grad_offset, grad_count, state_offset, state_count, moves_end;
    uint32_t loss_offset, carry_offset;
    int32_t carry_size, micro, tight, in_size, out_size;
} nn_plan;

/* What nn_fit does; zero-initialise. */
typedef struct nn_fit_opts {
    const void *x;        /* [n] samples of the input row's type and shape (of row from's output,
                             float) */
    const int32_t *lengths, *lengths_val; /* of x and x_val, see nn_set_lengths; NULL: all T */
    const void *y;        /* [n] targets: float[outputs] for MSE and BCE, int32_t labels for
                             cross-entropy */
    int32_t n;
    const void *x_val, *y_val; /* held-out samples, for nn_eval after each epoch; NULL: none. Not
                                  together with from */
    int32_t n_val;
    int32_t epochs;       /* 0: 1 */
    int32_t no_shuffle;   /* 1: samples in the order given, every epoch */
    const char *from;     /* x are outputs of this frozen row (nn_infer_to); NULL: x are inputs */
    int32_t quiet;        /* 1: print nothing */
    /* Called after every step (epoch_end 0) and every epoch (1); non-zero cancels: nn_fit returns
       NN_ERR_CANCELLED and the model is as the last step left it. NULL: none. */
    int (*progress)(void *user, const nn_progress *p);
    void *user;
} nn_fit_opts;

struct nn_progress {
    nn_model *model;
    int32_t epoch, epochs, step, steps; /* counted from 1 */
    int32_t epoch_end;
    float loss, accuracy;         /* means over the epoch so far; accuracy is NaN under MSE */
    float loss_val, accuracy_val; /* at the end of an epoch with held-out samples, else NaN */
};

/* >>api -------------------------------------------------------------------------------------- */

#ifndef NN_NO_PLANNER
/* Bytes of the block that nn_build needs for these rows and options: exact, and the same on every
   machine. Negative: an error, with its sentence in o->why. Under NN_NO_MALLOC planning itself
   happens in o->memory, which must be given, and the result counts that too. O(rows^2). */
NNDEF int64_t nn_memory(const nn_layer *rows, const nn_opts *o);
NNDEF int64_t nn_memory_text(const char *text, const nn_opts *o);
NNDEF int64_t nn_memory_file(const void *image, size_t size, const nn_opts *o);

/* Checks rows, plans, and sets initial values. o NULL: inference, malloc. On error *m is zeroed
   and holds nothing. After success nothing allocates until nn_free. */
NNDEF int nn_build(nn_model *m, const nn_layer *rows, const nn_opts *o);

/* The same for rows as text (>>format): "input x - shape=10; dense h x units=64 act=relu". The
   text is copied into the block. */
NNDEF int nn_build_text(nn_model *m, const char *text, const nn_opts *o);

/* Builds the model that a file image of size bytes describes (>>format). The image may be freed
   afterwards unless o->in_place is set. Any byte of it may be hostile. */
NNDEF int nn_load(nn_model *m, const void *image, size_t size, const nn_opts *o);

/* A second model with the same rows and other options (another thread's inference, say): tensors
   that do not train there are shared with src, which must outlive it and must not train meanwhile.
   o as for nn_build, without weights. A clone of a clone shares with the first model only. */
NNDEF int nn_clone(nn_model *m, const nn_model *src, const nn_opts *o);
#endif

/* Reads the tensors of a file into a model that exists, by name. With allow_missing tensors of the
   model that the file lacks, and tensors of the file that the model lacks, are left alone; missing
   (NULL: nobody) is then told each name, prefixed by '-' or '+'. num_batches_tracked, position_ids
   and aux. entries are passed over. All or nothing: on error no tensor changed. */
NNDEF int nn_load_params(nn_model *m, const void *image, size_t size, int allow_missing,
                         void (*missing)(void *user, const char *name), void *user);

/* A model from a constant plan: the same results as from its rows. memory has p->memory bytes or
   more, aligned to NN_ALIGNMENT, and like *p outlives the model. m->opts.why may be set afterwards.
   NN_ERR_MEMORY, NN_ERR_ALIGN or NN_ERR_CALL (a NULL). */
NNDEF int nn_open(nn_model *m, const nn_plan *p, void *memory, size_t size);
NNDEF void nn_plan_init(nn_model *m); /* for nn_plan.init: values of what is not used in place */

/* Frees what nn_build or nn_load allocated and zeroes *m. NULL and a zeroed model are fine. */
NNDEF void nn_free(nn_model *m);

/* Outputs of n samples: y[n][out_size]. x holds [n] samples as the input row says. Any n >= 0. */
NNDEF int nn_infer(nn_model *m, const void *x, float *y, int n);

/* Runs up to a row and returns that row's outputs; and goes on from there. Features of a frozen
   trunk can so be computed once and kept. out, features: [n][elements of the row]. */
NNDEF int nn_infer_to(nn_model *m, const char *row, const void *x, float *out, int n);
NNDEF int nn_infer_from(nn_model *m, const char *row, const float *features, float *y, int n);

/* Lengths of sequences: lengths[i], from 0 to T, is that of sample i of the x of the calls that
   follow (nn_fit has its own). lstm, gru and rnn skip the steps behind it: the state stays, outputs
   there are 0, as for PyTorch's packed sequences; a dense row or a loss over all steps sees those
   zeros and counts them. What x holds there does not matter, but must be finite and ids in range.
   The array must stay until it is replaced; NULL: all T. Calls that compute then check it:
   NN_ERR_LABEL out of range, NN_ERR_CALL where the input is no sequence. */
NNDEF int nn_set_lengths(nn_model *m, const int32_t *lengths);

/* One more step of n <= opts.batch streams: x[n] are samples of one step, y[n][out_size] their
   outputs, the same bits as a whole sequence gives. For models built with opts.steps 1 and
   opts.stateful. */
NNDEF int nn_step(nn_model *m, const void *x, float *y, int n);

/* States of a stateful model: to zero; how many floats a sample has (for every lstm, gru and rnn,
   layer and direction: h, and c of an lstm); and copies of those of the first n samples. */
NNDEF int nn_reset(nn_model *m);
NNDEF size_t nn_state_size(const nn_model *m);
NNDEF int nn_get_state(const nn_model *m, float *out, int n);
NNDEF int nn_set_state(nn_model *m, const float *states, int n);

/* Loss and right answers over n samples as inference computes them, in m->loss and m->correct. */
NNDEF int nn_eval(nn_model *m, const void *x, const void *target, int n);

#ifndef NN_NO_TRAIN
/* One training step on n <= opts.batch samples: gradients set to zero, forward, loss, backward,
   update. m->loss is the mean loss before the update. target: float[n][out_size] for MSE and BCE,
   int32_t[n] (one label a position) for cross-entropy. */
NNDEF int nn_train(nn_model *m, const void *x, const void *target, int n);
NNDEF int nn_train_from(nn_model *m, const char *row, const float *features, const void *target,
                        int n);

/* The parts of nn_train, to accumulate gradients or to bring a loss of one's own. nn_forward:
   outputs to y (NULL: not wanted), loss to m->loss when target is given. nn_backward adds to the
   gradients: of the loss (dy NULL, after a forward with target) or of dy[n][out_size], the
   gradient of y; dx[n][in_size] receives the gradient of the input (needs opts.input_grad; NULL:
   not wanted). One micro-batch at most: n <= m->micro. nn_update takes one optimizer step. Other
   calls that compute may stand between nn_backward and nn_update, but not before nn_backward.
   nn_update does not clear gradients: nn_zero_grad does. Running statistics move once an update, by
   the last nn_backward's batch. */
NNDEF int nn_forward(nn_model *m, const void *x, const void *target, float *y, int n);
NNDEF int nn_backward(nn_model *m, const float *dy, float *dx);
NNDEF int nn_update(nn_model *m);
NNDEF int nn_zero_grad(nn_model *m);
NNDEF float *nn_flat_grad(nn_model *m, uint32_t *count); /* NULL with fuse_update, nothing to train,
                                                            or a sparse embedding that trains */
#endif

/* Piecewise execution for watchdogs and schedulers: begin, then nn_run_some until it returns 0. It
   executes up to k commands and returns how many are left, or an error. The result is the same. x,
   y and target must stay until the end. */
NNDEF int nn_begin_infer(nn_model *m, const void *x, float *y, int n);
NNDEF int nn_run_some(nn_model *m, int k);
#ifndef NN_NO_TRAIN
NNDEF int nn_begin_train(nn_model *m, const void *x, const void *target, int n);
#endif

#ifndef NN_NO_TRAIN
/* Epochs of training steps over a data set; a progress line on a terminal, plain lines elsewhere.
   */
NNDEF int nn_fit(nn_model *m, const nn_fit_opts *f);
#endif

/* Copies of tensors by name ("conv1.weight"), in PyTorch's shape and order; count must be its
   elements. Optimizer state is reached as "opt.mom/NAME", "opt.m/NAME" and "opt.v/NAME". */
NNDEF int nn_get(const nn_model *m, const char *name, float *out, size_t count);
NNDEF int nn_set(nn_model *m, const char *name, const float *values, size_t count);
NNDEF int nn_get_grad(const nn_model *m, const char *name, float *out, size_t count);

/* The bytes of that name in opts.aux, and how many; NULL: there are none. */
NNDEF const void *nn_get_aux(const nn_model *m, const char *name, size_t *size);

/* The kernels that the model computes with: "plain", "fma" (gcc for Windows), "avx2", "avx512" or
   "neon"; NULL without a model. nn_build takes the fastest that this build has and this CPU runs;
   so does nn_set_kernels with name NULL. Others than those: NN_ERR_CALL, and nothing changes. All
   give the same bits. */
NNDEF const char *nn_kernels_name(const nn_model *m);
NNDEF int nn_set_kernels(nn_model *m, const char *name);

/* 64 bits over all parameters and running statistics: equal where those are equal, whatever the
   machine, its kernels and how weights are packed. FNV-1a of their values as little-endian float32,
   every NaN as 0x7fc00000, tensors in the order of rows, as nn_get gives them; shared ones once. 0
   if there is no model. */
NNDEF uint64_t nn_digest(const nn_model *m);

/* Copies what training changes (trainable tensors, running statistics) to and from a buffer of the
   caller's; nn_snapshot_size bytes. The optimizer's state is not part of it. */
NNDEF size_t nn_snapshot_size(const nn_model *m);
NNDEF int nn_snapshot(const nn_model *m, void *buffer, size_t size);
NNDEF int nn_rollback(nn_model *m, const void *buffer, size_t size);

/* Writes the model as a file (>>format) through write, and returns its bytes; write NULL: only
   counts. with_training: optimizer state and counters too, so that nn_load with opts.resume
   continues bit for bit. */
NNDEF int64_t nn_save(const nn_model *m, int with_training, nn_write_fn *write, void *user);

/* An nn_write_fn that fills memory: user points at an nn_memory_writer; full: an error. */
typedef struct nn_memory_writer {
    void *bytes;
    size_t capacity, size; /* size: how many are written */
} nn_memory_writer;
NNDEF int nn_write_memory(void *user, const void *bytes, size_t size);

#ifndef NN_NO_STDIO
/* To and from a path. nn_save_file replaces the file atomically: PATH.tmp, flush, rename.
   nn_load_file with in_place keeps the file in memory until nn_free. */
NNDEF int nn_save_file(const nn_model *m, const char *path, int with_training);
#if !defined(NN_NO_MALLOC) && !defined(NN_NO_PLANNER)
NNDEF int nn_load_file(nn_model *m, const char *path, const nn_opts *o);
#endif
#endif

#ifndef NN_NO_STRINGS
/* The rows with shapes, parameters and memory as text; write NULL: to stdout. */
NNDEF int nn_print(const nn_model *m, nn_write_fn *write, void *user);
#endif

/* The rows as text, canonical: what a file stores. Returns its length without the zero byte; at
   most size bytes are written. out NULL: only counts. */
NNDEF int64_t nn_rows_text(const nn_layer *rows, char *out, size_t size);
NNDEF uint64_t nn_rows_hash(const nn_layer *rows); /* of that text */

NNDEF const char *nn_error_name(int error); /* "NN_ERR_ROW"; never NULL */

/* Text as ids: what Keras' Tokenizer and pad_sequences do, to the number. Words are what stands
   between separators, numbered from 1 by falling frequency, then by first appearance; 0 is padding.
   A vocabulary is made once, with nn_words_begin, nn_words_add and nn_words_save, and is then a few
   bytes for flash or for the model's file (opts.aux); nn_tokenizer_load uses them where they lie.

   Text is UTF-8 of any size. Bytes that are not UTF-8 stay in their words as they are. Lower case
   is Python's str.lower() for the letters of Latin-1, Latin Extended-A and Additional, Greek,
   Cyrillic and its Supplement, and U+01A0, U+01AF (Vietnamese), U+0218 and U+021A (Romanian);
   U+0130 becomes i and U+0307, and whether a sigma is final depends on characters below U+0530, in
   Latin Extended Additional, U+2018 and U+2019 only. No other letter changes, though str.lower()
   changes some: in the rest of Latin Extended-B, polytonic Greek (U+1F00 to U+1FFF), Armenian,
   Georgian, Cherokee, Coptic, Glagolitic, Latin Extended-C and -D, Cyrillic Extended-B, letterlike
   symbols, Roman numerals, circled and full-width letters, and beyond U+FFFF. */

/* How text is split and numbered. Zero means Keras' default of every field. */
typedef struct nn_words_opts {
    int32_t num_words;   /* ids stay below this: the num_words - 1 most frequent words are kept;
                            0: all */
    int32_t keep_case;   /* 1: no lower case */
    const char *filters; /* characters that separate words, UTF-8; NULL: tab, line feed and
                            !"#$%&()*+,-./:;<=>?@[\]^_`{|}~ */
    const char *oov;     /* has id 1, and so have words without an id, which are else left out.
                            Taken as it is; a word of the texts equal to it counts as it (in Keras
                            it takes that word's id along) */
    char split;          /* separates words too, ASCII; 0: space */
    char *why;           /* receives the sentence of an error; NULL: nobody */
    size_t why_size;
} nn_words_opts;

/* A vocabulary in use. Fill in by nn_tokenizer_load; read only words. */
typedef struct nn_tokenizer {
    const unsigned char *slots, *ends, *bytes, *filters; /* in the image */
    uint32_t filters_size, slot_count;
    uint32_t words;        /* the largest id; an embedding needs one row more */
    uint32_t separates[4]; /* one bit for each ASCII character */
    uint8_t keep_case, oov, split;
} nn_tokenizer;

/* Words being counted, in a block of the caller's. */
typedef struct nn_words {
    nn_tokenizer t; /* of all words so far, in the order of appearance */
    unsigned char *slots, *ends, *counts, *order, *bytes;
    uint32_t words_max, bytes_max, num_words;
    int32_t failed;
    char *why;
    size_t why_size;
} nn_words;

#ifndef NN_NO_TRAIN
/* Bytes of the block to count so many distinct words, of so many bytes together, the word oov among
   them. k texts of n bytes together have at most (n + k) / 2 words, of at most 3 n / 2 bytes.
   Negative: an error. */
NNDEF int64_t nn_words_memory(int64_t words, int64_t bytes);

/* Starts to count in a block of that size, of any alignment. o->filters and the block outlive *w.
   o NULL: Keras' defaults. */
NNDEF int nn_words_begin(nn_words *w, const nn_words_opts *o, void *block, size_t size,
                         int64_t words, int64_t bytes);

/* Counts the words of a text. NN_ERR_MEMORY: they are more than the block was made for, and *w is
   good for nothing more. */
NNDEF int nn_words_add(nn_words *w, const char *text, size_t size);

/* Writes the vocabulary of what was counted, and returns its bytes; out NULL: only counts them.
   Equal texts and options make equal bytes on every machine. More texts may be added afterwards. */
NNDEF int64_t nn_words_save(nn_words *w, void *out, size_t size);
#endif

/* Uses a vocabulary that nn_words_save wrote, where it lies: the bytes outlive *t. Any of them may
   be hostile. Of o only why and why_size are read; NULL: none. */
NNDEF int nn_tokenizer_load(nn_tokenizer *t, const void *image, size_t size, const nn_opts *o);

/* The ids of a text into ids[steps], as pad_sequences lays them: zeros in front (NN_PRE) or behind
   (NN_POST) when there are fewer; of more, the last (cut NN_PRE) or the first (NN_POST) are kept.
   Returns how many of ids are of the text, for nn_set_lengths where zeros are behind. ids NULL: how
   many ids the text has. */
enum { NN_PRE = 0, NN_POST = 1 };
NNDEF int32_t nn_tokenizer_ids(const nn_tokenizer *t, const char *text, size_t size, int32_t *ids,
                               int32_t steps, int pad, int cut);

/* The word of an id and its bytes, without a zero at the end; NULL: there is none. */
NNDEF const char *nn_tokenizer_word(const nn_tokenizer *t, int32_t id, size_t *size);

/* Ops, for nn_layer.op. Only those a program names are linked. What an nn_op holds stands in
   >>ops. */
enum { /* arguments of nn_op.plan's needs */
    NN_NEED_X = 1,       /* backward reads the input */
    NN_NEED_Y = 2,       /* backward reads the output */
    NN_IN_PLACE = 4,     /* forward may write its output over its input */
    NN_IN_PLACE_BACK = 8, /* backward may write dx over dy */
    NN_ALIAS = 16        /* the output is the input: no command */
};

/* What a row needs beyond its input and output; filled in by nn_op.plan. */
typedef struct nn_need {
    int32_t training; /* in: 1 in the training plan */
    int32_t live;     /* in: 1 above (or at) the lowest trainable row of the training plan */
    uint32_t flags;   /* out: NN_NEED_X and so on */
    int64_t keep;     /* out: bytes a sample kept from forward for backward */
    int64_t keep_fixed; /* out: bytes kept whatever the batch */
    int64_t tmp, tmp_back; /* out: bytes of scratch during forward and backward, whatever the batch
                              */
} nn_need;

/* What nn_op.shape reads and fills in. */
typedef struct nn_shape {
    const nn_layer *row;
    int32_t inputs;
    const nn_row *in[8];   /* the rows read */
    nn_row *out;           /* dim and ndim to fill in; act is what the row asks for */
    int32_t set, sets;     /* set: which layer and direction is asked for; out: how many there are,
                              0: 1. Called once for each */
    int32_t tensors;       /* out: how many of the op's suffixes a set has, from the first */
    int32_t state;         /* out: floats of a sample's state that a set carries to the next call */
    int32_t dim[4][4];     /* out: their shapes */
    uint8_t tensor_ndim[4];
    uint8_t panels[4];     /* out: 1: stored in panels of 16 outputs, see >>plan */
    void *planner;         /* for nn_row_error */
} nn_shape;

/* What the functions must do. m->row[c->row] is the row's own shape, m->input[m->row[c->row].input]
   the row it reads, m->run.n the number of samples; nn_at turns an offset of the command into a
   pointer.

   shape     fills in out->dim and out->ndim from in[], or refuses through nn_row_error.
   plan      fills in *need: whether backward reads x (NN_NEED_X) or y (NN_NEED_Y), else these are
             not there; what may be overwritten; bytes to keep and of scratch.
   forward   y[n][out] from x[n][in]. With several inputs it is called once for each from the second
             on, with x the result so far (first: the first input) and x2 the next input.
   backward  assigns all of dx[n][in] from dy[n][out], which it may destroy. With several inputs it
             is called once for each, x2 its number; dx is then missing (NN_AT_NONE) where no
             gradient is wanted. NULL: rows of this op cannot train, nor any below them.
   update    NULL. */
struct nn_op {
    const char *name;     /* in text and errors: "conv2d" */
    const char *stem;     /* of automatic names: "conv" */
    const char *suffixes; /* of tensors, separated by spaces: "weight bias" */
    uint32_t fields;      /* bits of the row fields it reads; an op of your own: 0 */
    uint8_t inputs_min, inputs_max;
    uint8_t running;      /* the first tensor that is a running statistic, not a parameter; 0: none
                             */
    uint8_t role;         /* 0; what the planner may do with a row of the header's own ops */
    uint8_t fuses;        /* 1: backward itself updates tensor 0 under fuse_update */
    int (*shape)(nn_shape *s);
    void (*plan)(const nn_model *m, uint32_t row, nn_need *need);
    void (*forward)(nn_model *m, const nn_cmd *c);
    void (*backward)(nn_model *m, const nn_cmd *c); /* NULL under NN_NO_TRAIN */
    void (*update)(nn_model *m, const nn_cmd *c);   /* moves running statistics; NULL: none */
};

#if defined(NN_STATIC) && defined(__cplusplus)
#define NN__OP(name) namespace { extern const nn_op name; }
#elif defined(NN_STATIC)
#define NN__OP(name) static const nn_op name;
#else
#define NN__OP(name) extern const nn_op name;
#endif
NN__OP(nn_op_input)
NN__OP(nn_op_dense)
NN__OP(nn_op_conv2d)
NN__OP(nn_op_maxpool2d)
NN__OP(nn_op_avgpool2d)
NN__OP(nn_op_conv1d)
NN__OP(nn_op_maxpool1d)
NN__OP(nn_op_avgpool1d)
NN__OP(nn_op_globalavgpool)
NN__OP(nn_op_globalmaxpool)
NN__OP(nn_op_batchnorm)
NN__OP(nn_op_dropout)
NN__OP(nn_op_flatten)
NN__OP(nn_op_add)
NN__OP(nn_op_activation)
NN__OP(nn_op_embedding)
NN__OP(nn_op_lstm)
NN__OP(nn_op_gru)
NN__OP(nn_op_rnn)
#define NN_INPUT (&nn_op_input)
#define NN_DENSE (&nn_op_dense)
#define NN_CONV2D (&nn_op_conv2d)
#define NN_MAXPOOL2D (&nn_op_maxpool2d)
#define NN_AVGPOOL2D (&nn_op_avgpool2d)
#define NN_CONV1D (&nn_op_conv1d)
#define NN_MAXPOOL1D (&nn_op_maxpool1d)
#define NN_AVGPOOL1D (&nn_op_avgpool1d)
#define NN_GLOBALAVGPOOL (&nn_op_globalavgpool)
#define NN_GLOBALMAXPOOL (&nn_op_globalmaxpool)
#define NN_BATCHNORM (&nn_op_batchnorm)
#define NN_DROPOUT (&nn_op_dropout)
#define NN_FLATTEN (&nn_op_flatten)
#define NN_ADD (&nn_op_add)
#define NN_ACTIVATION (&nn_op_activation)
#define NN_EMBEDDING (&nn_op_embedding)
#define NN_LSTM (&nn_op_lstm)
#define NN_GRU (&nn_op_gru)
#define NN_RNN (&nn_op_rnn)

/* For ops of one's own: the place of an offset of a command (NULL for NN_AT_NONE), and an error of
   shape. */
NNDEF float *nn_at(const nn_model *m, uint32_t offset);
NNDEF int nn_row_error(const nn_shape *s, const char *text);

#if defined(__cplusplus) && !defined(NN_STATIC)
}
#endif
#endif /* NN_H */

/* ==========================================================================================
   Part 3: portable implementation
   ========================================================================================== */
#if defined(NN_IMPLEMENTATION) && !defined(NN__IMPLEMENTED)
#define NN__IMPLEMENTED

/* >>platform ------------------------------------------------------------------------------------
   Everything that depends on compiler, C library or target, so that the sections below need no
   #ifdef inside a function. Refuses what would break the promise of equal bits. */

#include <float.h>
#include <limits.h>
#include <stdarg.h>

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "nn.h: -ffast-math and its parts change results; compile this file without them"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 2
#error "nn.h: x87 arithmetic rounds twice; compile with -msse2 -mfpmath=sse"
#endif

#ifndef NN_NO_LIBC
#include <string.h>
#ifndef NN_MEMCPY
#define NN_MEMCPY memcpy
#endif
#ifndef NN_MEMSET
#define NN_MEMSET memset
#endif
#endif
#ifndef NN_NO_STDIO
#include <stdio.h>
/* What the C library lacks: is standard output a terminal, to disk with a file, and replacing a
 * file. */
#ifndef NN_SYNC
#if defined(_WIN32)
#include <io.h>
#define NN_SYNC(file) _commit(_fileno(file))
#define NN_TERMINAL() _isatty(1)
#ifdef __cplusplus
extern "C"
#endif
    __declspec(dllimport) int __stdcall MoveFileExA(const char *from, const char *to,
                                                    unsigned long flags);
#define NN_RENAME(from, to) \
    (MoveFileExA(from, to, 1 | 8) ? 0 : -1) /* replace, and write through \
                                             */
#elif defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#if defined(__STRICT_ANSI__) && !defined(__cplusplus)
extern int fsync(int);
extern int fileno(FILE *);
#endif
#include <fcntl.h>
#define NN_SYNC(file) fsync(fileno(file))
/* The folder of path, so that a rename in it lasts; its failure loses nothing that was there. */
static void nn__sync_folder(const char *path) {
    char folder[1025];
    size_t n = strlen(path);
    int file;
    memcpy(folder, path, n);
    while (n && folder[n - 1] != '/') n--;
    if (n > 1) n--;
    if (!n) folder[n++] = '.';
    folder[n] = 0;
    file = open(folder, O_RDONLY);
    if (file < 0) return;
    (void)fsync(file);
    (void)close(file);
}
#define NN__SYNC_FOLDER(path) nn__sync_folder(path)
#define NN_TERMINAL() isatty(1)
#define NN_RENAME(from, to) rename(from, to)
#else
#define NN_SYNC(file) 0
#define NN_TERMINAL() 0
#define NN_RENAME(from, to) (remove(to), rename(from, to))
#endif
#endif
#ifndef NN__SYNC_FOLDER
#define NN__SYNC_FOLDER(path) ((void)0)
#endif
#endif
#ifdef NN_NO_MALLOC
#undef NN_MALLOC
#undef NN_FREE
#define NN_MALLOC(size) ((void)(size), (void *)NULL)
#define NN_FREE(p) ((void)(p))
#define NN__PLANS_IN_BLOCK 1
#else
#define NN__PLANS_IN_BLOCK 0
#ifndef NN_MALLOC
#include <stdlib.h>
#define NN_MALLOC malloc
#define NN_FREE free
#endif
#endif

#if defined(__SSE__) || defined(_M_X64) || (defined(_M_IX86_FP) && _M_IX86_FP >= 1)
#include <xmmintrin.h>
#define NN__SQRT_SSE 1
#endif
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#include <immintrin.h>
#elif defined(_MSC_VER) && defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define NN__UNUSED __attribute__((unused))
#define NN__ALIGNED __attribute__((aligned(64))) /* to a line of the cache */
#define NN__INLINE static inline __attribute__((unused, always_inline))
#elif defined(_MSC_VER)
#define NN__UNUSED
#define NN__ALIGNED
#define NN__INLINE static __forceinline
#else
#define NN__UNUSED
#define NN__ALIGNED
#define NN__INLINE static inline
#endif

/* gcc in gnu modes contracts a * b + c across statements. No such expression exists below; this
   guards against one that slips in. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#if defined(__thumb__) && !defined(__thumb2__)
#pragma GCC optimize( \
    "no-ipa-ra") /* gcc 12 for Cortex-M0 forgets which registers an epilogue uses */
#endif
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* Before a loop that clang would unroll for nothing. */
#if defined(__clang__)
#define NN__ROLLED _Pragma("clang loop unroll(disable)")
#else
#define NN__ROLLED
#endif

/* Around all but the kernels: small is better than fast, for flash and for compile time. */
#if defined(__clang__) && defined(__OPTIMIZE__)
#define NN__SMALL_BEGIN \
    _Pragma("clang attribute push(__attribute__((minsize)), apply_to = function)")
#define NN__SMALL_END _Pragma("clang attribute pop")
#elif defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__)
#define NN__SMALL_BEGIN _Pragma("GCC push_options") _Pragma("GCC optimize(\"Os\")")
#define NN__SMALL_END _Pragma("GCC pop_options")
#else
#define NN__SMALL_BEGIN
#define NN__SMALL_END
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define NN__BIG_ENDIAN 1
#else
#define NN__BIG_ENDIAN 0
#endif

#ifdef NN_NO_TRAIN
#define NN__TRAIN_ONLY(f) NULL
#define NN__CAN_TRAIN 0
#else
#define NN__TRAIN_ONLY(f) f
#define NN__CAN_TRAIN 1
#endif

/* What nothing needs without a planner is dropped by the compiler. */
#ifdef NN_NO_PLANNER
#define NN__PLAN_ONLY(f) NULL
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#else
#define NN__PLAN_ONLY(f) f
#endif

/* Around a constant that was declared before: in C++ a static one cannot be. */
#if defined(NN_STATIC) && defined(__cplusplus)
#define NN__CONSTANT_BEGIN namespace {
#define NN__CONSTANT_END }
#elif defined(NN_STATIC)
#define NN__CONSTANT_BEGIN static
#define NN__CONSTANT_END
#else
#define NN__CONSTANT_BEGIN
#define NN__CONSTANT_END
#endif

/* Freestanding compilers call memcpy and memset all the same, so the builtins add nothing, and
   small copies become moves. */
#ifdef NN_NO_LIBC
#if defined(__GNUC__)
#ifndef NN_MEMCPY
#define NN_MEMCPY __builtin_memcpy
#endif
#ifndef NN_MEMSET
#define NN_MEMSET __builtin_memset
#endif
#else
#ifndef NN_MEMCPY
static void nn__memcpy(void *to, const void *from, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
}
#define NN_MEMCPY nn__memcpy
#endif
#ifndef NN_MEMSET
static void nn__memset(void *to, int value, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) ((unsigned char *)to)[i] = (unsigned char)value;
}
#define NN_MEMSET nn__memset
#endif
#endif
#endif

/* >>util ----------------------------------------------------------------------------------------
   Names, checked sizes, bytes, and the sentence of an error. Uses nothing. */

#define NN__LANES 16 /* of ordered sums along a vector; part of the meaning of results */
#define NN__ROW_BYTES \
    224              /* sizeof(nn_layer) with 64-bit pointers: rows in a block count as these */
#define NN__TEXT 192 /* bytes of a sentence, at most */
#define NN__NAME_MAX 127
#define NN__ROWS_MAX 9999
#define NN__LAYERS_MAX 31 /* so that sets of tensors are counted in 6 bits */

typedef char nn__check_row_size[sizeof(void *) == 8 ? (sizeof(nn_layer) == NN__ROW_BYTES ? 1 : -1)
                                                    : (sizeof(nn_layer) <= NN__ROW_BYTES ? 1 : -1)];
typedef char nn__check_cmd_size
    [sizeof(nn_cmd) == 32 && sizeof(nn_row) == 28 && sizeof(nn_tensor) == 40 ? 1 : -1];

#define NN__LIMIT \
    ((int64_t)1 << 40) /* no size passes this: products of two int32 cannot overflow int64 */

NN__INLINE int64_t nn__round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
NN__INLINE int64_t nn__min64(int64_t a, int64_t b) { return a < b ? a : b; }
NN__INLINE int32_t nn__min(int32_t a, int32_t b) { return a < b ? a : b; }
NN__INLINE int32_t nn__max(int32_t a, int32_t b) { return a > b ? a : b; }
NN__INLINE int32_t nn__or1(int32_t a) { return a ? a : 1; }

/* a * b, or NN__LIMIT when that is passed; both at most NN__LIMIT and not negative. */
static int64_t nn__times(int64_t a, int64_t b) {
    if (a > 0 && b > NN__LIMIT / a) return NN__LIMIT;
    return a * b;
}

static size_t nn__strlen(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}

/* Is word[0..n) the string s? */
static int nn__is(const char *s, const char *word, size_t n) {
    size_t i;
    for (i = 0; i < n; i++)
        if (s[i] == 0 || s[i] != word[i]) return 0;
    return s[n] == 0;
}

static int nn__begins(const char *s, const char *with) {
    while (*with && *s == *with) s++, with++;
    return !*with;
}

static int nn__same(const char *a, const char *b) { return nn__is(a, b, nn__strlen(b)); }

/* Next word of a list separated by spaces: moves *s behind it, returns its start and length, or
 * NULL. */
static const char *nn__word(const char **s, size_t *n) {
    const char *start = *s;
    while (*start == ' ') start++;
    *n = 0;
    while (start[*n] && start[*n] != ' ') ++*n;
    *s = start + *n;
    return *n ? start : NULL;
}

static uint32_t nn__get32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void nn__put32(unsigned char *p, uint32_t v) {
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
    p[2] = (unsigned char)(v >> 16);
    p[3] = (unsigned char)(v >> 24);
}

/* Text written piece by piece into a buffer that may be too small or missing: len counts on. */
typedef struct nn__text {
    char *out;
    size_t size, len;
    void (*sink)(void *user, const char *s, size_t n); /* receives it instead; NULL: out does */
    void *user;
} nn__text;

static nn__text nn__text_to(char *out, size_t size) {
    nn__text t;
    t.out = out;
    t.size = size;
    t.len = 0;
    t.sink = NULL;
    t.user = NULL;
    return t;
}

static void nn__put(nn__text *t, const char *s, size_t n) {
    size_t i;
    if (t->sink) t->sink(t->user, s, n);
    for (i = 0; i < n; i++, t->len++)
        if (t->out && t->len < t->size) t->out[t->len] = s[i];
}

static void nn__puts(nn__text *t, const char *s) { nn__put(t, s, nn__strlen(s)); }

static void nn__putd(nn__text *t, int64_t v) {
    char digit[20];
    size_t n = sizeof digit;
    uint64_t u = v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v;
    do {
        digit[--n] = (char)('0' + u % 10);
        u /= 10;
    } while (u);
    if (v < 0) nn__put(t, "-", 1);
    nn__put(t, digit + n, sizeof digit - n);
}

static void nn__putx(nn__text *t, uint32_t v) {
    int shift;
    for (shift = 28; shift >= 0; shift -= 4) nn__put(t, &"0123456789abcdef"[v >> shift & 15], 1);
}

/* The name of row i: its own, or stem and count. O(i). */
static void nn__put_name(nn__text *t, const nn_layer *rows, uint32_t i) {
    uint32_t j;
    int count = 1;
    if (rows[i].name) {
        nn__puts(t, rows[i].name);
        return;
    }
    for (j = 0; j < i; j++) count += nn__same(rows[j].op->stem, rows[i].op->stem);
    nn__puts(t, rows[i].op->stem);
    nn__putd(t, count);
}

#ifndef NN_NO_STRINGS
static void nn__put_shape(nn__text *t, const nn_row *r) {
    int i;
    for (i = 3 - r->ndim; i < 3; i++) {
        if (i > 3 - r->ndim) nn__put(t, "x", 1);
        nn__putd(t, r->dim[i]);
    }
}

/* Formats %d int, %D int64_t, %s string, %W start and size of a word, %S nn_row's shape, %R rows
   and index of a row, %N the same, the name only. */
static void nn__format(nn__text *t, const char *f, va_list arg) {
    for (; *f; f++) {
        if (*f != '%') {
            nn__put(t, f, 1);
            continue;
        }
        f++;
        if (*f == 'd') nn__putd(t, va_arg(arg, int));
        if (*f == 'D') nn__putd(t, va_arg(arg, int64_t));
        if (*f == 's') nn__puts(t, va_arg(arg, const char *));
        if (*f == 'W') {
            const char *word = va_arg(arg, const char *);
            nn__put(t, word, va_arg(arg, size_t));
        }
        if (*f == 'S') nn__put_shape(t, va_arg(arg, const nn_row *));
        if (*f == 'R' || *f == 'N') {
            const nn_layer *rows = va_arg(arg, const nn_layer *);
            uint32_t i = va_arg(arg, uint32_t);
            if (*f == 'R') {
                nn__puts(t, "row ");
                nn__putd(t, i);
                if (!rows[i].op) continue;
                nn__puts(t, " (");
                nn__puts(t, rows[i].op->name);
                nn__puts(t, " \"");
            }
            nn__put_name(t, rows, i);
            if (*f == 'R') nn__puts(t, "\")");
        }
    }
}
#endif

/* The options given, or none. */
static nn_opts nn__given(const nn_opts *o) {
    nn_opts none;
    if (o) return *o;
    NN_MEMSET(&none, 0, sizeof none);
    return none;
}

/* Writes the sentence of an error to o->why and returns the code. */
#ifndef NN_NO_STRINGS
static int nn__fail(const nn_opts *o, int code, const char *format, ...) {
    nn__text t;
    va_list arg;
    if (!o || !o->why || !o->why_size) return code;
    t = nn__text_to(o->why, o->why_size - 1);
    va_start(arg, format);
    nn__format(&t, format, arg);
    va_end(arg);
    t.out[t.len < t.size ? t.len : t.size] = 0;
    return code;
}
#define NN__FAIL nn__fail
#else
NN__UNUSED static int nn__fail(const nn_opts *o, int code, const char *format, ...) {
    (void)o, (void)format;
    return code;
}
#define NN__FAIL(o, code, ...) ((void)sizeof nn__fail(o, code, __VA_ARGS__), (int)(code))
#endif

#ifndef NN_NO_STRINGS
NNDEF const char *nn_error_name(int error) {
    switch (error) {
    case NN_OK: return "NN_OK";
#define NN__X(name, value, text) \
    case value: return "NN_ERR_" #name;
        NN_ERRORS(NN__X)
#undef NN__X
    default: return "NN_ERR_?";
    }
}
#else
NNDEF const char *nn_error_name(int error) {
    (void)error;
    return "";
}
#endif

/* >>math ----------------------------------------------------------------------------------------
   Bits of a float; multiply-add and square root, by the instruction where there is one and exactly
   in integers elsewhere. exp, log, tanh and sigmoid are kernels (Part 4). Uses >>util. */

/* For functions that are slow anyway: inlining them into every use only costs flash. */
#if defined(__GNUC__)
#define NN__NOINLINE static __attribute__((noinline, unused))
#elif defined(_MSC_VER)
#define NN__NOINLINE static __declspec(noinline)
#else
#define NN__NOINLINE static
#endif

NN__INLINE uint32_t nn__bits(float x) {
    uint32_t u;
    NN_MEMCPY(&u, &x, sizeof u);
    return u;
}

NN__INLINE float nn__from_bits(uint32_t u) {
    float x;
    NN_MEMCPY(&x, &u, sizeof x);
    return x;
}

#define NN__NAN_BITS 0x7fc00000u
#define NN__INF_BITS 0x7f800000u

/* Right shift that ors every bit it loses into the lowest one, so that a later rounding still sees
   whether anything was there (the "jamming" shift of every software floating point). */
NN__INLINE uint64_t nn__shift_sticky(uint64_t x, int32_t n) {
    uint64_t kept;
    if (n > 63) return x != 0;
    kept = x >> n;
    return kept | ((kept << n) != x);
}

/* 24-bit significand in [2^23, 2^24) with its biased exponent; zero stays zero. Normalising what is
   subnormal here (exponents then reach below 1) spares every later step a special case. */
NN__INLINE uint32_t nn__unpack(uint32_t u, int32_t *exponent) {
    int32_t e = (int32_t)(u >> 23 & 0xff);
    uint32_t m = u & 0x7fffff;
    if (e != 0) {
        m |= 0x800000;
    } else if (m != 0) {
        for (e = 1; m < 0x800000; e--) m <<= 1;
    }
    *exponent = e;
    return m;
}

/* a * b + c with one rounding (nearest, ties to even) in integers: IEEE 754-2008 5.4.1, subnormals
   and signed zeros included; every NaN is 0x7fc00000.
   Product and addend are put at the top of 64 bits, with a spare bit for the carry. The one with
   the smaller exponent is shifted down. Bits fall off its end only when the other one is so much
   larger that no cancellation can bring the sticky bit near the rounding position: the product has
   14 zeros below it, the addend 38. */
NN__NOINLINE float nn__fma_soft(float a, float b, float c) {
    uint32_t ua = nn__bits(a), ub = nn__bits(b), uc = nn__bits(c);
    uint32_t xa = ua & 0x7fffffff, xb = ub & 0x7fffffff, xc = uc & 0x7fffffff;
    uint32_t sign = (ua ^ ub) & 0x80000000, differ = (ua ^ ub ^ uc) & 0x80000000, r;
    uint64_t x, y, swap;
    int32_t ea, eb, ec, e, d;

    if (xa >= NN__INF_BITS || xb >= NN__INF_BITS || xc >= NN__INF_BITS) {
        if (xa > NN__INF_BITS || xb > NN__INF_BITS || xc > NN__INF_BITS) goto nan;
        if (xa < NN__INF_BITS && xb < NN__INF_BITS) return c;
        if (xa == 0 || xb == 0 || (xc == NN__INF_BITS && differ)) goto nan;
        return nn__from_bits(sign | NN__INF_BITS);
    }
    if (xa == 0 || xb == 0) return nn__from_bits(xc ? uc : uc & sign);

    x = nn__unpack(ua, &ea);
    x = x * nn__unpack(ub, &eb) << 14;
    y = (uint64_t)nn__unpack(uc, &ec) << 38;
    e = ea + eb - 125; /* the exponent field if the leading bit ends up as bit 62 */
    d = e - (ec + 1);
    if (d < 0) {
        swap = x;
        x = y;
        y = swap;
        e -= d;
        d = -d;
        sign ^= differ;
    }
    y = nn__shift_sticky(y, d);
    if (differ) {
        x -= y;
        if (x == 0) return 0.0f;
        if (x >> 63) {
            x = 0 - x;
            sign ^= 0x80000000;
        }
    } else {
        x += y;
    }
    for (; !(x >> 62); e--) x <<= 1;
    if (e >= 255) return nn__from_bits(sign | NN__INF_BITS);
    if (e < 1) {
        x = nn__shift_sticky(x, 1 - e);
        e = 1;
    }
    r = (uint32_t)(x >> 32) | ((uint32_t)x != 0);
    r = (r + 63 + (r >> 7 & 1)) >> 7;
    /* The leading bit of r counts as one in the exponent field; a carry out of the rounding walks
       from the largest subnormal to the smallest normal and from the largest finite to infinity. */
    return nn__from_bits(sign | (r + ((uint32_t)(e - 1) << 23)));
nan:
    return nn__from_bits(NN__NAN_BITS);
}

/* Correctly rounded square root, one bit a turn (the schoolbook method in base 2): 24 bits and one
   to round by. A tie is impossible, since the square of 25 bits does not fit into 24. */
NN__NOINLINE float nn__sqrt_soft(float x) {
    uint32_t u = nn__bits(x), m, bit, root = 0, twice = 0;
    int32_t e;
    if ((u & 0x7fffffff) == 0 || u == NN__INF_BITS) return x;
    if (u > NN__INF_BITS) return nn__from_bits(NN__NAN_BITS);
    m = nn__unpack(u, &e) << 1;
    e += 127;
    if (e & 1) m <<= 1;
    /* `twice` is two times the root so far, `m` what is left of the number, doubled every turn. */
    for (bit = 1u << 24; bit != 0; bit >>= 1) {
        if (m >= twice + bit) {
            m -= twice + bit;
            twice += bit << 1;
            root += bit;
        }
        m <<= 1;
    }
    return nn__from_bits(((root + 1) >> 1) + ((uint32_t)((e >> 1) - 1) << 23));
}

/* Compilers answer sqrtf with a call (gcc -Os on every target, and all of them for errno), so the
   instruction is written out. IEEE 754 requires it exact, hence equal to nn__sqrt_soft. */
#if defined(NN__SQRT_SSE)
NN__INLINE float nn__sqrt(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
#else
#if defined(__GNUC__) && defined(__aarch64__)
#define NN__SQRT_ASM(r, x) __asm__("fsqrt %s0, %s1" : "=w"(r) : "w"(x))
#elif defined(__GNUC__) && defined(__arm__) && defined(__ARM_FP) && (__ARM_FP & 4)
#define NN__SQRT_ASM(r, x) __asm__("vsqrt.f32 %0, %1" : "=t"(r) : "t"(x))
#elif defined(__GNUC__) && defined(__s390x__)
#define NN__SQRT_ASM(r, x) __asm__("sqebr %0, %1" : "=f"(r) : "f"(x))
#elif defined(__GNUC__) && defined(__riscv_flen)
#define NN__SQRT_ASM(r, x) __asm__("fsqrt.s %0, %1" : "=f"(r) : "f"(x))
#else
#define NN__SQRT_ASM(r, x) (r) = nn__sqrt_soft(x)
#endif
NN__INLINE float nn__sqrt(float x) {
    float r;
    NN__SQRT_ASM(r, x);
    return r;
}
#endif

#if defined(NN__SQRT_SSE) && defined(__SSE2__)
/* The product of two floats is exact in double. The sum is rounded to odd, so that rounding it to
   float sees on which side of a tie it was (Boldo and Melquiond, 2008). */
NN__NOINLINE float nn__fma_double(float a, float b, float c) {
    __m128d p = _mm_mul_sd(_mm_set_sd((double)a), _mm_set_sd((double)b)), z = _mm_set_sd((double)c);
    __m128d s = _mm_add_sd(p, z), t = _mm_sub_sd(s, p);
    __m128d lost = _mm_add_sd(_mm_sub_sd(p, _mm_sub_sd(s, t)), _mm_sub_sd(z, t));
    double sum = _mm_cvtsd_f64(s), rest = _mm_cvtsd_f64(lost);
    uint64_t u;
    if (rest > 0 || rest < 0) {
        NN_MEMCPY(&u, &sum, 8);
        if (!(u & 1)) u = (rest > 0) == (sum > 0) ? u + 1 : u - 1;
        NN_MEMCPY(&sum, &u, 8);
    }
    return (float)sum;
}
#endif

/* NN__FMA1: one hardware instruction where the target of this compilation has it. A definition made
   before this point stays (a stamp inside target("fma") knows more than these macros).
   gcc turns __builtin_fmaf into that instruction at every -O. clang does so only where it knows
   that the C library leaves errno alone and calls fmaf elsewhere, so it gets the instruction by
   name. */
#ifndef NN__FMA1
#if defined(NN_FAST_MULADD)
#define NN__FMA1(a, b, c) ((float)((a) * (b) + (c)))
#elif (defined(__FMA__) && defined(__clang__)) || (defined(_MSC_VER) && defined(__AVX2__))
NN__INLINE float nn__fma_hard(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
#define NN__FMA1(a, b, c) nn__fma_hard(a, b, c)
#elif defined(__GNUC__) && !defined(__clang__) &&                                               \
    (defined(__FMA__) || defined(__aarch64__) || defined(__s390x__) || defined(FP_FAST_FMAF) || \
     defined(__FP_FAST_FMAF) || defined(__riscv_flen) ||                                        \
     (defined(__ARM_FEATURE_FMA) && defined(__ARM_FP) && (__ARM_FP & 4)))
#define NN__FMA1(a, b, c) __builtin_fmaf(a, b, c)
#elif defined(__clang__) && defined(__aarch64__)
#define NN__FMA_ASM(a, b, c) __asm__("fmadd %s0, %s1, %s2, %s0" : "+w"(c) : "w"(a), "w"(b))
#elif defined(__clang__) && defined(__s390x__)
#define NN__FMA_ASM(a, b, c) __asm__("maebr %0, %1, %2" : "+f"(c) : "f"(a), "f"(b))
#elif defined(__clang__) && defined(__ARM_FEATURE_FMA) && defined(__ARM_FP) && (__ARM_FP & 4)
#define NN__FMA_ASM(a, b, c) __asm__("vfma.f32 %0, %1, %2" : "+t"(c) : "t"(a), "t"(b))
#elif defined(__clang__) && defined(__riscv_flen)
#define NN__FMA_ASM(a, b, c) __asm__("fmadd.s %0, %1, %2, %0" : "+f"(c) : "f"(a), "f"(b))
#elif defined(NN__SQRT_SSE) && defined(__SSE2__)
#define NN__FMA1(a, b, c) nn__fma_double(a, b, c)
#else
#define NN__FMA1(a, b, c) nn__fma_soft(a, b, c)
#define NN__FMA1_IS_SOFT 1
#endif
#ifdef NN__FMA_ASM
NN__INLINE float nn__fma_hard(float a, float b, float c) {
    NN__FMA_ASM(a, b, c);
    return c;
}
#define NN__FMA1(a, b, c) nn__fma_hard(a, b, c)
#endif
#endif

#define NN__MAGIC 12582912.0f
/* Added to the bits of x, it moves the step of the exponent field from powers of two to sqrt(1/2)
   times them: the bits of 1 less those of sqrt(1/2), 0x3f3504f3. */
#define NN__SQRT_HALF 0x004afb0du

/* >>random --------------------------------------------------------------------------------------
   Counter-based: a value is a function of a key and a position, so that recomputed, split and
   resumed runs agree without any generator state. The mixers are splitmix64's finalizer and a
   32-bit xorshift-multiply. Uses >>util. */

static uint64_t nn__mix64(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t nn__key(uint64_t seed, uint64_t a, uint64_t b) {
    return nn__mix64(nn__mix64(nn__mix64(seed + 0x9e3779b97f4a7c15u) + a) + b);
}

NN__INLINE uint32_t nn__random(uint64_t key, uint32_t i) {
    uint32_t x = (uint32_t)key + i * 0x9e3779b9u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= (uint32_t)(key >> 32);
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

/* Position i of a shuffled order of n: a four-round Feistel network over the next power of four,
   walked until it lands inside, is a permutation that needs no memory. */
static uint32_t nn__shuffled(uint64_t key, uint32_t i, uint32_t n) {
    uint32_t half = 1, mask, round;
    while (half < 16 && (uint32_t)1 << 2 * half < n) half++;
    mask = ((uint32_t)1 << half) - 1;
    do {
        uint32_t left = i >> half, right = i & mask;
        for (round = 0; round < 4; round++) {
            uint32_t next = left ^ (nn__random(key + round, right) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

/* >>dispatch ------------------------------------------------------------------------------------
   The kernels of Part 4 behind one constant table. Every stamp of every kernel gives the same bits.
 */

/* C[r][j] = sum over k of A[r][k] B[k][j] (+ bias[j]), k over n[2] x n[1] x n[0], rows over the
   same of rows[], the first fastest. Strides are in floats; bk[0] is not 0. Columns are taken 16 at
   a time; those from column c on begin at b + c * bc and c + c * cc. With b_panels (c_panels) the k
   strides of B and b0 (the row strides of C and c0) count in widths of the panel, 16 or what is
   left: see >>plan. */
typedef struct nn__gemm {
    const float *a, *b, *bias; /* bias NULL: none */
    float *c;
    ptrdiff_t ar[3], ak[3];
    ptrdiff_t bc, bj, b0, bk[3];
    ptrdiff_t cc, c0, cr[3];
    int32_t rows[3], cols, n[3];
    uint8_t b_panels, c_panels;
    uint8_t add;  /* continue from the partial sum in C; else from +0 */
    uint8_t relu; /* C = relu(C) at the end */
} nn__gemm;

/* Max pooling of a row of windows, or back: x (dx) of all windows at distance step. */
typedef struct nn__pool {
    const float *x;
    float *y, *dx;
    unsigned char *keep; /* winners, bits each, from number index on; NULL: none */
    size_t index;
    ptrdiff_t step, row, column;     /* of x: from window to window, and inside one */
    ptrdiff_t y_step;                /* of y and of index: from window to window */
    int32_t windows, channels, h, w; /* of a window, inside the image */
    int32_t first, kw;               /* number of its first element, and of elements a row */
    int bits;
} nn__pool;

/* Numbers of one optimizer step on one tensor. */
typedef struct nn__step {
    float lr, momentum, decay;
    float beta1_rest, beta2, beta2_rest; /* 1 - beta1, beta2, 1 - beta2 */
    float rate, root, eps;               /* p -= rate * m / (sqrt(v) * root + eps) */
} nn__step;

/* The kernels: type, name, arguments. For lanes ak[0] is 1, and with b_panels element k of column j
   is b[k / 16 * bk[1] + k % 16 + j * bj * w], w the panel's width. */
#define NN__KERNELS(X)                                                                             \
    X(void, gemm, (const nn__gemm *g))                                                             \
    /* rows[0] of few columns, the n[0] elements of k in 16 lanes and a tree; see below */         \
    X(void, lanes, (const nn__gemm *g))                                                            \
    /* channel by channel, B [k][cols]: C[r][j] = sum over k of A[r][k][j] B[k][j] */              \
    X(void, channels, (const nn__gemm *g))                                                         \
    /* y = act(y), softmax along rows of width */                                                  \
    X(void, act, (float *y, size_t n, int32_t width, int act, float slope))                        \
    /* y = (x * scale - mean[i % c]) / std[i % c], std 0: 1; c > 4: only one of each */            \
    X(void, affine,                                                                                \
      (float *y, const void *x, int type, size_t n, int32_t c, float scale, const float *mean,     \
       const float *std))                                                                          \
    X(void, add, (float *y, const float *a, const float *b, size_t n))                             \
    X(void, divide, (float *y, const float *x, float by, size_t n))                                \
    /* s[j] += sum over rows of x[r * stride + j], in order */                                     \
    X(void, add_rows, (float *s, const float *x, size_t rows, int32_t cols, ptrdiff_t stride))     \
    X(void, maxpool, (const nn__pool *p))                                                          \
    /* y = (x - mean) * inv * weight + bias, by channel */                                         \
    X(void, normalize,                                                                             \
      (float *y, const float *x, size_t n, int32_t c, const float *mean, const float *inv,         \
       const float *weight, const float *bias))                                                    \
    /* 1 / sqrt(var + eps) */                                                                      \
    X(void, inverse_root, (float *out, const float *var, size_t n, float eps))                     \
    X(void, uniform, (float *p, const nn_tensor *t, int32_t groups, uint64_t key, float bound))    \
    /* 0 where 24 random bits are below, else x * scale */                                         \
    X(void, drop, (float *y, const float *x, size_t n, uint64_t key, uint32_t below, float scale)) \
    /* z: i, f, g, o before and after their activation, n each; c, h from them and c0 */           \
    X(void, lstm, (float *z, float *h, float *c, const float *c0, int32_t n))                      \
    /* z: r, z, n before and after, n each; q: what h0 adds to them; h from them and h0 */         \
    X(void, gru_gates, (float *z, const float *q, float *rh, const float *h0, int32_t n))          \
    X(void, gru, (float *z, const float *q, float *h, const float *h0, int32_t n, int reset))      \
    NN__TRAINING_KERNELS(X)                                                                        \
    /* loss of one sample; grad NULL: value only; scale multiplies the gradient */                 \
    X(float, mse, (float *grad, const float *y, const float *t, int32_t n, float scale))           \
    X(float, bce, (float *grad, const float *z, const float *t, int32_t n, float scale))           \
    X(float, cross_entropy, (float *grad, const float *z, int32_t label, int32_t n, float scale))  \
    X(float, sum, (const float *x, size_t n))                                                      \
    /* is none a NaN or an infinity? */                                                            \
    X(int, finite, (const float *x, size_t n))

#ifdef NN_NO_TRAIN
#define NN__TRAINING_KERNELS(X)
#else
#define NN__TRAINING_KERNELS(X)                                                                    \
    /* columns [0, w) of B for n of k as one panel [k][16], padded with zeros */                   \
    X(void, pack,                                                                                  \
      (float *to, const float *b, const int32_t n[3], const ptrdiff_t bk[3], ptrdiff_t bj,         \
       int32_t w))                                                                                 \
    X(void, unpool, (const nn__pool *p))                                                           \
    /* from the gates to the gradients before their activation; dh and dc: to those of h0, c0, but \
       for what comes through the product */                                                       \
    X(void, lstm_grad,                                                                             \
      (float *z, float *dh, float *dc, const float *c, const float *c0, int32_t n))                \
    X(void, gru_grad,                                                                              \
      (float *z, float *q, float *dh, const float *h0, int32_t n, int reset))                      \
    X(void, gru_reset_grad,                                                                        \
      (float *z, float *rh, float *dh, const float *drh, const float *h0, int32_t n))              \
    /* dy *= act'(x), from y = act(x) */                                                           \
    X(void, act_grad, (float *dy, const float *y, size_t n, int32_t width, int act, float slope))  \
    /* mean and biased variance by channel */                                                      \
    X(void, moments, (float *mean, float *var, const float *x, size_t n, int32_t c))               \
    /* s[0..c): sum dy, s[c..2c): sum dy xhat; s NULL: constant statistics; dx NULL: not wanted */ \
    X(void, normalize_grad,                                                                        \
      (float *dx, float *s, const float *dy, const float *x, size_t n, int32_t c,                  \
       const float *mean, const float *inv, const float *weight))                                  \
    /* running += momentum (batch * factor - running) */                                           \
    X(void, running,                                                                               \
      (float *running, const float *batch, int32_t c, float momentum, float factor))               \
    X(void, sgd, (float *p, const float *g, float *v, size_t n, const nn__step *s))                \
    X(void, adam, (float *p, const float *g, float *m, float *v, size_t n, const nn__step *s))
#endif

/* Instruction sets that Part 4 is stamped for. */
#define NN__PLAIN_C 0
#define NN__AVX2 1
#define NN__AVX512 2
#define NN__NEON 3

/* Which stamps there are beside the plain one. gcc for Windows does not align the stack for 32-byte
   vectors (its bug 54412), so it gets the plain text compiled for the fma instruction. With one
   stamp its functions are called directly, so that a linker keeps only those in use. */
#define NN__X86 0
#define NN__X86_FMA 0
#if defined(__GNUC__) && !defined(NN_NO_SIMD) && (defined(__x86_64__) || defined(__i386__))
#if defined(_WIN32) && !defined(__clang__)
#undef NN__X86_FMA
#define NN__X86_FMA 1
#else
#undef NN__X86
#define NN__X86 1
#endif
#endif
#if defined(__GNUC__) && !defined(NN_NO_SIMD) && defined(__aarch64__) && !NN__BIG_ENDIAN
#define NN__ARM64 1
#else
#define NN__ARM64 0
#endif
#define NN__DISPATCH (NN__X86 || NN__X86_FMA || NN__ARM64)

#if NN__DISPATCH
#define NN__CALL(m, kernel, ...) (m)->kernels->kernel(__VA_ARGS__)
#define NN__X(type, name, arguments) type(*name) arguments;
typedef struct nn_kernels {
    const char *name;
    NN__KERNELS(NN__X)
} nn_kernels;
#undef NN__X
#define NN__ROOM 4096 /* floats on the stack, for weights in another order and maps before a pool */
#else
#define NN__CALL(m, kernel, ...) ((void)(m), nn__##kernel##_f32_plain(__VA_ARGS__))
#define NN__ROOM 1 /* none: firmware has no such stack, and scalar code no need of it */
#define NN__X(type, name, arguments) static type nn__##name##_f32_plain arguments;
NN__KERNELS(NN__X)
#undef NN__X
typedef struct nn_kernels {
    const char *name;
} nn_kernels;
#endif

static const nn_kernels *nn__find_kernels(const char *name);

/* What flags that no macro shows would change: the order of a sum, the sign of zero, a division
   made a multiplication. (Flushed subnormals are no error: programs set that on purpose, and
   nothing here needs them.) */
static int nn__float_is_broken(void) {
    volatile float source[5] = { 1e8f, 1.0f, 3.0f, 0.0f, 5.0f };
    float big = source[0], three = source[2], zero = source[3], quotient[2];
    float sum = big + source[1], negative = -zero;
    int i;
    quotient[0] = source[1];
    quotient[1] = source[4];
    sum = sum - big;
    negative = negative + zero;
    for (i = 0; i < 2; i++) quotient[i] = quotient[i] / three;
    return nn__bits(sum) != 0 || nn__bits(negative) != 0 || nn__bits(quotient[0]) != 0x3eaaaaab ||
           nn__bits(quotient[1]) != 0x3fd55555;
}

NN__SMALL_BEGIN
/* >>fields --------------------------------------------------------------------------------------
   The one table of row fields: parsing, printing, validation and hashing are loops over it. */

enum { NN__INT, NN__SMALL, NN__FLAG, NN__REAL, NN__POSITIVE, NN__TYPE, NN__ORDER, NN__ACT };

#define NN__FIELDS(X)                            \
    X(SHAPE, shape, 3, NN__INT)                  \
    X(TYPE, type, 1, NN__TYPE)                   \
    X(ORDER, order, 1, NN__ORDER)                \
    X(SCALE, scale, 1, NN__REAL)                 \
    X(MEAN, mean, 4, NN__REAL)                   \
    X(STD, std, 4, NN__POSITIVE)                 \
    X(UNITS, units, 1, NN__INT)                  \
    X(ACT, act, 1, NN__ACT)                      \
    X(SLOPE, slope, 1, NN__POSITIVE)             \
    X(KERNEL, kernel, 2, NN__SMALL)              \
    X(STRIDE, stride, 2, NN__SMALL)              \
    X(DILATION, dilation, 2, NN__SMALL)          \
    X(PAD, pad, 4, NN__SMALL)                    \
    X(GROUPS, groups, 1, NN__INT)                \
    X(NO_BIAS, no_bias, 1, NN__FLAG)             \
    X(EPS, eps, 1, NN__POSITIVE)                 \
    X(MOMENTUM, momentum, 1, NN__POSITIVE)       \
    X(BIASED, biased, 1, NN__FLAG)               \
    X(RATE, rate, 1, NN__POSITIVE)               \
    X(COUNT_PAD, count_pad, 1, NN__FLAG)         \
    X(VOCAB, vocab, 1, NN__INT)                  \
    X(PAD_ID, pad_id, 1, NN__INT)                \
    X(MASK, mask, 1, NN__FLAG)                   \
    X(SPARSE, sparse, 1, NN__FLAG)               \
    X(LAYERS, layers, 1, NN__SMALL)              \
    X(BIDIRECTIONAL, bidirectional, 1, NN__FLAG) \
    X(LAST, last, 1, NN__FLAG)                   \
    X(ONE_BIAS, one_bias, 1, NN__FLAG)           \
    X(RESET_BEFORE, reset_before, 1, NN__FLAG)   \
    X(LR, lr, 1, NN__POSITIVE)                   \
    X(NO_DECAY, no_decay, 1, NN__FLAG)

enum { /* positions in the table */
#define NN__X(id, member, count, kind) NN__AT_##id,
       NN__FIELDS(NN__X)
#undef NN__X
           NN__FIELD_COUNT
};

typedef struct nn__field {
    const char *name;
    uint16_t offset;
    uint8_t count, kind;
} nn__field;

static const nn__field nn__fields[] = {
#define NN__X(id, member, count, kind) \
    { #member, (uint16_t)offsetof(nn_layer, member), count, kind },
    NN__FIELDS(NN__X)
#undef NN__X
};

/* The names of a kind's values, in the order of their enum; NULL for kinds without. */
static const char *nn__value_names(int kind) {
    if (kind == NN__TYPE) return "f32 u8 i32";
    if (kind == NN__ORDER) return "hwc chw";
    if (kind == NN__ACT) return "linear relu leaky_relu sigmoid tanh softmax";
    return NULL;
}

/* Value i of field f, as its 32 bits. */
static uint32_t nn__field_bits(const nn_layer *row, const nn__field *f, int i) {
    uint32_t bits;
    NN_MEMCPY(&bits, (const unsigned char *)row + f->offset + 4 * (size_t)i, 4);
    return bits;
}

/* How many values of the field are given: up to the last that is not zero. */
static int nn__field_given(const nn_layer *row, const nn__field *f) {
    int n = f->count;
    while (n && !nn__field_bits(row, f, n - 1)) n--;
    return n;
}

static int nn__count_words(const char *s) {
    size_t n;
    int count = 0;
    while (nn__word(&s, &n)) count++;
    return count;
}

/* The largest value of an integer kind. */
static int32_t nn__field_most(int kind) {
    const char *names = nn__value_names(kind);
    if (names) return nn__count_words(names) - 1;
    return kind == NN__SMALL ? 65535 : kind == NN__FLAG ? 1 : INT32_MAX;
}

static int nn__field_is_valid(int kind, uint32_t bits) {
    int finite = (bits & 0x7f800000u) != 0x7f800000u, negative = (int)(bits >> 31);
    if (kind == NN__REAL) return finite;
    if (kind == NN__POSITIVE) return finite && !negative;
    return bits <= (uint32_t)nn__field_most(kind);
}

static int nn__field_fail(const nn_opts *o, const nn_layer *rows, uint32_t i, const nn__field *f,
                          int n) {
    char name[32];
    nn__text t = nn__text_to(name, sizeof name - 1);
    nn__puts(&t, f->name);
    if (f->count > 1) {
        nn__put(&t, "[", 1);
        nn__putd(&t, n);
        nn__put(&t, "]", 1);
    }
    name[t.len] = 0;
    if (f->kind == NN__REAL) return NN__FAIL(o, NN_ERR_ROW, "%R: %s is not finite", rows, i, name);
    if (f->kind == NN__POSITIVE)
        return NN__FAIL(o, NN_ERR_ROW, "%R: %s is negative or not finite", rows, i, name);
    return NN__FAIL(o, NN_ERR_ROW, "%R: %s is %d, not from 0 to %d", rows, i, name,
                    (int)(int32_t)nn__field_bits(&rows[i], f, n), (int)nn__field_most(f->kind));
}

/* Every field of row i in range, and none set that its op ignores. */
static int nn__check_fields(const nn_opts *o, const nn_layer *rows, uint32_t i) {
    int k, n;
    for (k = 0; k < NN__FIELD_COUNT; k++) {
        const nn__field *f = &nn__fields[k];
        int given = nn__field_given(&rows[i], f);
        if (given && !(rows[i].op->fields >> k & 1))
            return NN__FAIL(o, NN_ERR_ROW, "%R: %s is not a field of this op", rows, i, f->name);
        for (n = 0; n < given; n++)
            if (!nn__field_is_valid(f->kind, nn__field_bits(&rows[i], f, n)))
                return nn__field_fail(o, rows, i, f, n);
    }
    return 0;
}

/* >>rows ----------------------------------------------------------------------------------------
   Names of rows and tensors, and the patterns of nn_opts.train. Uses >>fields. */

/* nn_op.role: what the planner may do with a row. */
enum {
    NN__PLAIN,
    NN__INPUT_ROLE,
    NN__CONV_ROLE,
    NN__POOL_ROLE,
    NN__ACT_ROLE,
    NN__EMBEDDING_ROLE,
    NN__RECURRENT_ROLE,
    NN__OVERALL_ROLE
};

static uint32_t nn__count_rows(const nn_layer *rows) {
    uint32_t n = 0;
    while (n <= 0xffff && rows[n].op) n++;
    return n;
}

/* Index of the row named word[0..n) among the first count, or -1. */
static int32_t nn__find_row(const nn_layer *rows, uint32_t count, const char *word, size_t n) {
    const char *tried = "";
    uint32_t i, j;
    for (i = 0; i < count; i++)
        if (rows[i].name && nn__is(rows[i].name, word, n)) return (int32_t)i;
    for (i = 0; i < count; i++) { /* stem and count: only the count-th row of a stem can be it */
        size_t stem = nn__strlen(rows[i].op->stem), at;
        int32_t number = 0;
        if (nn__same(rows[i].op->stem, tried) || n <= stem ||
            !nn__is(rows[i].op->stem, word, stem))
            continue;
        tried = rows[i].op->stem;
        for (at = stem; at < n && word[at] >= '0' && word[at] <= '9' && number <= NN__ROWS_MAX;
             at++)
            number = number * 10 + (word[at] - '0');
        if (at < n || word[stem] == '0') continue;
        for (j = i; j < count; j++)
            if (nn__same(rows[j].op->stem, tried) && --number == 0) break;
        if (j < count && !rows[j].name) return (int32_t)j;
    }
    return -1;
}

static int nn__name_char(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '/' || c == '-';
}

/* A name's characters and length; "-" alone stands for no input in text, and what begins with opt.
   or aux. means something else in files. */
static int nn__name_is_valid(const char *name) {
    size_t n = 0;
    if (nn__same(name, "opt") || nn__same(name, "aux")) return 0;
    if (nn__begins(name, "opt.") || nn__begins(name, "aux.")) return 0;
    while (nn__name_char(name[n])) n++;
    return n && n <= NN__NAME_MAX && !name[n] && name[0] != '-';
}

/* pattern[0..n) against text, where '*' stands for any run of characters. */
static int nn__matches(const char *pattern, size_t n, const char *text) {
    size_t i = 0, star = n, mark = 0, at = 0;
    while (text[at]) {
        if (i < n && pattern[i] == '*') {
            star = i++;
            mark = at;
        } else if (i < n && pattern[i] == text[at]) {
            i++;
            at++;
        } else if (star < n) {
            i = star + 1;
            at = ++mark;
        } else {
            return 0;
        }
    }
    while (i < n && pattern[i] == '*') i++;
    return i == n;
}

/* Word number k of a list. */
static const char *nn__nth_word(const char *list, int k, size_t *n) {
    const char *word = nn__word(&list, n);
    while (word && k--) word = nn__word(&list, n);
    return word;
}

/* The name of tensor t: row and suffix, and PyTorch's layer and direction. */
static void nn__put_tensor_name(nn__text *out, const nn_model *m, uint32_t t) {
    const nn_tensor *tensor = &m->tensor[t];
    const nn_layer *row = &m->rows[tensor->row];
    int set = tensor->suffix >> 2, ways = row->bidirectional + 1;
    size_t n;
    const char *suffix = nn__nth_word(row->op->suffixes, tensor->suffix & 3, &n);
    nn__put_name(out, m->rows, tensor->row);
    nn__put(out, ".", 1);
    nn__put(out, suffix, n);
    if (row->op->role != NN__RECURRENT_ROLE) return;
    nn__puts(out, "_l");
    nn__putd(out, set / ways);
    if (set % ways) nn__puts(out, "_reverse");
}

/* Index of the tensor named name[0..n), or -1. */
static int32_t nn__find_tensor(const nn_model *m, const char *name, size_t n) {
    char have[NN__NAME_MAX + 32];
    uint32_t t;
    for (t = 0; t < m->tensor_count; t++) {
        nn__text out = nn__text_to(have, sizeof have);
        size_t i = 0;
        nn__put_tensor_name(&out, m, t);
        while (i < n && i < out.len && have[i] == name[i]) i++;
        if (i == n && i == out.len) return (int32_t)t;
    }
    return -1;
}

/* >>text ----------------------------------------------------------------------------------------
   Rows from and to text (>>format). The parser works in place on a copy of the text, which becomes
   the store of the names. Hostile input: every byte is checked. Uses >>rows. */

#ifndef NN_OPS
#define NN_OPS                                                                                    \
    NN_INPUT, NN_DENSE, NN_CONV2D, NN_CONV1D, NN_MAXPOOL2D, NN_MAXPOOL1D, NN_AVGPOOL2D,           \
        NN_AVGPOOL1D, NN_GLOBALAVGPOOL, NN_GLOBALMAXPOOL, NN_BATCHNORM, NN_DROPOUT, NN_FLATTEN,   \
        NN_ADD, NN_ACTIVATION, NN_EMBEDDING, NN_LSTM, NN_GRU, NN_RNN
#endif

static const nn_op *nn__find_op(const char *name) {
    static const nn_op *const list[] = { NN_OPS };
    size_t i;
    for (i = 0; i < sizeof list / sizeof *list; i++)
        if (nn__same(list[i]->name, name)) return list[i];
    return NULL;
}

/* A float from x and eight hex digits, or from a decimal such as -12.5e-3 of at most 18 digits,
   correctly rounded by long division: no strtod, no locale, no double. Returns success. */
static int nn__parse_real(const char *s, uint32_t *bits) {
    uint64_t value = 0, scale = 1, mantissa = 0;
    int digits = 0, power = 0, exponent = 0, sign = 0, point = 0, e = 0, i;
    *bits = 0;
    if (*s == 'x') {
        for (i = 1; i <= 8; i++) {
            char c = s[i];
            if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return 0;
            *bits = *bits << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
        }
        return s[9] == 0;
    }
    if (*s == '-') sign = 1, s++;
    for (; (*s >= '0' && *s <= '9') || (*s == '.' && !point); s++) {
        if (*s == '.') {
            point = 1;
            continue;
        }
        value = value * 10 + (uint64_t)(*s - '0');
        power -= point;
        if (++digits > 18) return 0;
    }
    if (!digits) return 0;
    if (*s == 'e') {
        int minus = *++s == '-';
        s += minus;
        if (!(*s >= '0' && *s <= '9')) return 0;
        for (; *s >= '0' && *s <= '9' && e < 100; s++) e = e * 10 + (*s - '0');
        power += minus ? -e : e;
    }
    if (*s || power < -18 || power > 18) return 0;
    if (sign) *bits = 0x80000000u;
    if (!value) return 1;
    for (; power > 0; power--) {
        if (value > (uint64_t)1 << 58) return 0;
        value *= 10;
    }
    for (; power < 0; power++) scale *= 10;
    /* value / scale as mantissa * 2^exponent with 26 bits and a sticky one: remainder < 10^18 <
     * 2^60 */
    mantissa = value / scale;
    value %= scale;
    while (mantissa < (uint64_t)1 << 26) {
        value *= 2;
        mantissa = mantissa * 2 + (value >= scale);
        value -= value >= scale ? scale : 0;
        exponent--;
    }
    for (i = value != 0; mantissa >= (uint64_t)1 << 27; exponent++) {
        i |= (int)(mantissa & 1);
        mantissa >>= 1;
    }
    /* 27 bits, of which the last three are round bits */
    i |= (mantissa & 3) != 0;
    exponent += 3;
    digits = (int)(mantissa >> 2 & 1);
    mantissa >>= 3;
    mantissa += (uint64_t)(digits && (i || (mantissa & 1)));
    *bits |= (uint32_t)((uint64_t)(exponent + 23 + 127) << 23) +
             (uint32_t)(mantissa - ((uint64_t)1 << 23));
    return 1;
}

static int nn__parse_value(const nn__field *f, const char *s, uint32_t *bits) {
    const char *names = nn__value_names(f->kind), *word;
    uint64_t value = 0;
    size_t n;
    if (f->kind == NN__REAL || f->kind == NN__POSITIVE) return nn__parse_real(s, bits);
    for (*bits = 0; names && (word = nn__word(&names, &n)) != NULL; ++*bits)
        if (nn__is(s, word, n)) return 1;
    if (names || !*s) return 0;
    for (; *s >= '0' && *s <= '9' && value <= 0x7fffffff; s++)
        value = value * 10 + (uint64_t)(*s - '0');
    *bits = (uint32_t)value;
    return !*s && value <= 0x7fffffff;
}

/* key=value[,value]: into the row. word is cut up. */
static int nn__parse_field(const nn_opts *o, nn_layer *rows, uint32_t i, char *word,
                           uint32_t *seen) {
    char *value = word;
    int k, n = 0;
    while (*value && *value != '=') value++;
    if (!*value || value == word)
        return NN__FAIL(o, NN_ERR_ROW, "%R: %s is not key=value", rows, i, word);
    *value++ = 0;
    if (word[0] == '_') return 0;
    if (nn__same(word, "share")) {
        if (rows[i].share) return NN__FAIL(o, NN_ERR_ROW, "%R: share is given twice", rows, i);
        rows[i].share = value;
        return nn__name_is_valid(value)
                   ? 0
                   : NN__FAIL(o, NN_ERR_ROW, "%R: share is not a name", rows, i);
    }
    for (k = 0; k < NN__FIELD_COUNT && !nn__same(nn__fields[k].name, word); k++) {}
    if (k == NN__FIELD_COUNT)
        return NN__FAIL(o, NN_ERR_ROW, "%R: no field is called %s", rows, i, word);
    if (*seen >> k & 1) return NN__FAIL(o, NN_ERR_ROW, "%R: %s is given twice", rows, i, word);
    *seen |= 1u << k;
    for (;;) {
        char *end = value, last;
        uint32_t bits;
        while (*end && *end != ',') end++;
        last = *end;
        *end = 0;
        if (n == nn__fields[k].count)
            return NN__FAIL(o, NN_ERR_ROW, "%R: %s takes %d values", rows, i, word, n);
        if (!nn__parse_value(&nn__fields[k], value, &bits))
            return NN__FAIL(o, NN_ERR_ROW, "%R: %s=%s is no value for it", rows, i, word, value);
        NN_MEMCPY((unsigned char *)&rows[i] + nn__fields[k].offset + 4 * n++, &bits, 4);
        if (!last) return 0;
        value = end + 1;
    }
}

/* Cuts the next word ended by a space out of text: returns it, moves *text behind it; NULL at the
 * end. */
static char *nn__cut_word(char **text) {
    char *start = *text, *end;
    while (*start == ' ' || *start == '\n') start++;
    for (end = start; *end && *end != ' ' && *end != '\n';) end++;
    *text = *end ? end + 1 : end;
    *end = 0;
    return end > start ? start : NULL;
}

/* op name inputs key=value...; line is cut up. */
static int nn__parse_row(const nn_opts *o, nn_layer *rows, uint32_t i, char *line) {
    char *op = nn__cut_word(&line), *name = nn__cut_word(&line), *inputs = nn__cut_word(&line),
         *word;
    uint32_t seen = 0;
    int err = 0;
    if (!inputs)
        return NN__FAIL(o, NN_ERR_ROW, "row %d of the text is not: op name inputs key=value",
                        (int)i);
    rows[i].op = nn__find_op(op);
    if (!rows[i].op)
        return NN__FAIL(o, NN_ERR_ROW, "row %d of the text: no op is called %s", (int)i, op);
    rows[i].name = name;
    if (!nn__name_is_valid(name))
        return NN__FAIL(o, NN_ERR_ROW, "row %d of the text: %s is not a name", (int)i, name);
    if (!nn__same(inputs, "-")) {
        rows[i].from = inputs;
        if (*inputs == ',') return NN__FAIL(o, NN_ERR_ROW, "%R: an input's name is empty", rows, i);
        for (word = inputs; *word && *word != ','; word++) {}
        if (*word) {
            *word++ = 0;
            rows[i].with = word;
            for (; *word; word++) {
                if (*word != ',') continue;
                if (word == rows[i].with || word[-1] == ' ' || !word[1]) break;
                *word = ' ';
            }
            if (*word || !*rows[i].with)
                return NN__FAIL(o, NN_ERR_ROW, "%R: an input's name is empty", rows, i);
        }
    } else if (i) {
        return NN__FAIL(o, NN_ERR_ROW, "%R: only the first row has no input", rows, i);
    }
    while (!err && (word = nn__cut_word(&line)) != NULL)
        err = nn__parse_field(o, rows, i, word, &seen);
    return err;
}

static int nn__text_byte_is_valid(char c) {
    return nn__name_char(c) || c == ',' || c == ';' || c == '=' || c == ' ' || c == '\n';
}

/* How many rows text[0..size) can hold at most (a zero row follows them), or an error. */
static int32_t nn__count_text_rows(const nn_opts *o, const char *text, size_t size) {
    size_t i;
    int32_t n = 1;
    for (i = 0; i < size; i++) {
        if (!nn__text_byte_is_valid(text[i]))
            return NN__FAIL(o, NN_ERR_ROW, "the text has byte %d at %D, which no row may have",
                            (int)(unsigned char)text[i], (int64_t)i);
        n += text[i] == ';';
        if (n > NN__ROWS_MAX)
            return NN__FAIL(o, NN_ERR_ROW, "the text has more than %d rows", NN__ROWS_MAX);
    }
    return n;
}

/* Bytes for the rows of a text and its names; counted at their 64-bit size. */
static int64_t nn__text_bytes(int32_t rows, size_t size) {
    return nn__round_up((int64_t)(rows + 1) * NN__ROW_BYTES + (int64_t)size + 1, NN_ALIGNMENT);
}

/* Parses text[0..size) into room of nn__text_bytes, which starts with the rows. */
static int nn__parse_rows(const nn_opts *o, const char *text, size_t size, int32_t max_rows,
                          unsigned char *room) {
    nn_layer *rows = (nn_layer *)(void *)room;
    char *copy = (char *)room + (size_t)(max_rows + 1) * NN__ROW_BYTES, *line = copy, *end;
    uint32_t count = 0;
    int first = 1, err = 0;
    NN_MEMSET(room, 0, (size_t)(max_rows + 1) * NN__ROW_BYTES);
    NN_MEMCPY(copy, text, size);
    copy[size] = 0;
    for (; line <= copy + size && !err; line = end + 1, first = 0) {
        for (end = line; *end && *end != ';';) end++;
        *end = 0;
        while (*line == ' ' || *line == '\n') line++;
        if (!*line || (first && nn__same(line, "1"))) continue;
        if (first && *line >= '0' && *line <= '9')
            return NN__FAIL(o, NN_ERR_FILE_VERSION,
                            "the rows are of version %s, this reader knows 1", line);
        err = nn__parse_row(o, rows, count++, line);
    }
    if (!err && !count) err = NN__FAIL(o, NN_ERR_ROW, "the text has no rows");
    return err;
}

/* Words joined by commas; follows: and one before the first. */
static void nn__put_list(nn__text *t, const char *list, int follows) {
    const char *word;
    size_t n;
    for (; (word = nn__word(&list, &n)) != NULL; follows = 1) {
        if (follows) nn__put(t, ",", 1);
        nn__put(t, word, n);
    }
}

static void nn__put_row(nn__text *t, const nn_layer *rows, uint32_t i) {
    int k, n;
    nn__puts(t, rows[i].op->name);
    nn__put(t, " ", 1);
    nn__put_name(t, rows, i);
    nn__put(t, " ", 1);
    if (i == 0) nn__put(t, "-", 1);
    else if (rows[i].from) nn__put_list(t, rows[i].from, 0);
    else nn__put_name(t, rows, i - 1);
    if (rows[i].with) nn__put_list(t, rows[i].with, 1);
    if (rows[i].share) {
        nn__puts(t, " share=");
        nn__puts(t, rows[i].share);
    }
    for (k = 0; k < NN__FIELD_COUNT; k++) {
        const nn__field *f = &nn__fields[k];
        const char *names = nn__value_names(f->kind);
        int given = nn__field_given(&rows[i], f);
        for (n = 0; n < given; n++) {
            uint32_t bits = nn__field_bits(&rows[i], f, n);
            size_t length;
            nn__puts(t, n ? "," : " ");
            if (!n) nn__puts(t, f->name), nn__put(t, "=", 1);
            if (names) {
                const char *word = nn__nth_word(names, (int)bits, &length);
                nn__put(t, word ? word : "?", word ? length : 1);
            } else if (f->kind == NN__REAL || f->kind == NN__POSITIVE) {
                nn__put(t, "x", 1);
                nn__putx(t, bits);
            } else {
                nn__putd(t, (int32_t)bits);
            }
        }
    }
}

static void nn__hash_bytes(void *user, const char *s, size_t n) {
    uint64_t *hash = (uint64_t *)user;
    while (n--) *hash = (*hash ^ (unsigned char)*s++) * 0x100000001b3u;
}

static void nn__put_rows(nn__text *t, const nn_layer *rows) {
    uint32_t i;
    nn__put(t, "1", 1);
    for (i = 0; rows[i].op; i++) {
        nn__put(t, ";", 1);
        nn__put_row(t, rows, i);
    }
}

NNDEF int64_t nn_rows_text(const nn_layer *rows, char *out, size_t size) {
    nn__text t = nn__text_to(out, size ? size - 1 : 0);
    if (!rows) return NN_ERR_ROW;
    nn__put_rows(&t, rows);
    if (out && size) out[t.len < t.size ? t.len : t.size] = 0;
    return (int64_t)t.len;
}

/* >>plan ----------------------------------------------------------------------------------------
   Rows and options become tables, a command list and offsets into one block. Uses >>rows and
   >>text.

   The block: rows that came as text, with their names | rows | inputs | tensors | commands |
   parameters that change | other parameters that are copied | gradients | optimizer state | losses
   | arena. No pointers in it, but for rows that came as text.

   A command list is emitted over numbered buffers first; the life of a buffer is then read off the
   list, and buffers that live at the same time get disjoint places in the arena. Inference and
   training are two lists over one arena. What a batch norm keeps for the update lies behind it, so
   that inference may come between backward and update.

   Commands: x, y and x2 are values, dx and dy their gradients, keep what forward keeps for
   backward, tmp scratch of this command.

     NN__FORWARD     y = op(x); for several inputs one command each from the second on: y = x + x2
     NN__LAST_ACT    y = act(y), where the loss takes the value before it
     NN__LOSS        loss of x; dy = its gradient
     NN__BACKWARD    dx from dy, gradients of the row's tensors +=; several inputs: one command
                     each, x2 the number of the input; with fuse_update x2 is the gradients' scratch
     NN__ACCUMULATE  y += x, where a value has several readers
     NN__UPDATE      an optimizer step on the row's tensors; its op's running statistics

   Panels: a dense weight [out,in] with at least 16 outputs, and every conv2d weight (by group), is
   kept in RAM as panels of 16 outputs, each [k][16] with k = in or (kh, kw, in); the last panel has
   the width that is left. Nothing is padded, and panel p of a matrix with K rows starts at 16 p
   K. */

enum { NN__FORWARD, NN__LAST_ACT, NN__LOSS, NN__BACKWARD, NN__ACCUMULATE, NN__UPDATE };
enum {                   /* nn_cmd.flags */
       NN__TRAINING = 1, /* in the training list, above the lowest trainable row */
       NN__FIRST = 2,    /* of the commands of a row with several inputs */
       NN__FINAL = 4,    /* the last of them */
       NN__NO_ACT = 8    /* the row's activation is left to NN__LAST_ACT or the loss */
};
enum {                  /* nn_row.flags */
       NN__TRAINS = 1,  /* has tensors that train */
       NN__LIVE = 2,    /* trains, or reads a row that does */
       NN__GRAD = 4,    /* its value has a gradient */
       NN__FOLDED = 8,  /* an activation done by the row it reads */
       NN__INSIDE = 16, /* a max pool done inside the convolution it reads */
       NN__SHARES = 32, /* uses tensors that another row uses too */
       NN__GATHERED = 64 /* an embedding that the recurrent row above looks up by itself */
};
enum { /* nn_tensor.flags; no space bit: in the block */
       NN__IS_TRAINED = 1,
       NN__MOVES = 2, /* trained, or a running statistic of a row that trains */
       NN__RUNNING = 4,
       NN__IMAGE = 8,
       NN__PARENT = 16,
       NN__STALE = 32 /* its gradient counts as zero, whatever memory holds */
};
enum { NN__CANONICAL, NN__PANELS }; /* nn_tensor.layout */

typedef struct nn__buffer {
    int64_t size;
    int32_t first, last; /* commands of its life; last < 0: unused */
    int64_t offset;
    uint8_t placed;
    uint8_t outlives; /* the list: whatever else runs in the arena must not touch it */
} nn__buffer;

typedef struct nn__planner {
    nn_model *m;
    const nn_opts *o;
    const nn_model *src;           /* of a clone, or NULL */
    uint16_t *root;                /* [rows] row whose value a row's value is */
    uint32_t *uses;                /* [rows] readers of that value */
    uint32_t *value, *grad, *keep; /* [rows] buffers, NN_AT_NONE: none yet */
    nn__buffer *buffer;
    uint32_t buffers, buffer_max, cmds, cmd_max;
    uint32_t list; /* first command of the list being emitted */
    int training,
        pre_act; /* the training list; the loss takes the value before the last activation */
    int64_t arena;
} nn__planner;

/* Element k of a pair of which a zero second one means the first, and two zeros mean def. */
NN__INLINE int32_t nn__pair(const int32_t v[2], int k, int32_t def) {
    return v[k] ? v[k] : v[0] ? v[0] : def;
}

NN__INLINE int64_t nn__elements(const nn_row *r) {
    return (int64_t)r->dim[0] * r->dim[1] * r->dim[2];
}

/* Canonical index i of a tensor as its place in memory. */
static uint32_t nn__place(const nn_tensor *t, int32_t groups, uint32_t i) {
    uint32_t k = t->count / (uint32_t)t->dim[0], out, og, p, w, area = 1;
    if (t->layout == NN__CANONICAL) return i;
    out = i / k;
    i %= k;
    if (t->ndim > 2) area = (uint32_t)t->dim[2] * (uint32_t)nn__or1(t->dim[3]);
    i = i % area * (k / area) + i / area;
    og = (uint32_t)t->dim[0] / (uint32_t)nn__or1(groups);
    p = out % og / NN__LANES;
    w = (uint32_t)nn__min(NN__LANES, (int32_t)(og - p * NN__LANES));
    return (out / og * og + p * NN__LANES) * k + i * w + out % og % NN__LANES;
}

NNDEF int nn_row_error(const nn_shape *s, const char *text) {
    const nn__planner *p = (const nn__planner *)s->planner;
    uint32_t row = (uint32_t)(s->row - p->m->rows);
    (void)row, (void)text;
    return NN__FAIL(p->o, NN_ERR_ROW, "%R: %s", p->m->rows, row, text);
}

#define NN__ROW_FAIL(s, format, ...)                                            \
    NN__FAIL(((const nn__planner *)(s)->planner)->o, NN_ERR_ROW, "%R: " format, \
             ((const nn__planner *)(s)->planner)->m->rows,                      \
             (uint32_t)((s)->row - ((const nn__planner *)(s)->planner)->m->rows), __VA_ARGS__)

/* Resolves the inputs of row i. */
static int nn__plan_inputs(nn__planner *p, uint32_t i) {
    nn_model *m = p->m;
    const nn_layer *rows = m->rows;
    nn_row *r = &m->row[i];
    const char *list = rows[i].from;
    size_t n;
    int part;
    r->input = (uint16_t)m->input_count;
    for (part = 0; part < 2; part++, list = rows[i].with) {
        const char *word;
        if (!list && !part && i && rows[i].op->inputs_max) {
            m->input[m->input_count++] = (uint16_t)(i - 1);
            r->inputs++;
        }
        while (list && (word = nn__word(&list, &n)) != NULL) {
            int32_t at = nn__find_row(rows, i, word, n);
            if (at < 0)
                return NN__FAIL(p->o, NN_ERR_ROW, "%R: no row above it is called %W", rows, i, word,
                                n);
            if (r->inputs == 8)
                return NN__FAIL(p->o, NN_ERR_ROW, "%R: more than 8 inputs", rows, i);
            m->input[m->input_count++] = (uint16_t)at;
            r->inputs++;
        }
    }
    if (r->inputs < rows[i].op->inputs_min || r->inputs > rows[i].op->inputs_max)
        return NN__FAIL(p->o, NN_ERR_ROW, "%R: has %d inputs, needs %d to %d", rows, i,
                        (int)r->inputs, (int)rows[i].op->inputs_min, (int)rows[i].op->inputs_max);
    return 0;
}

/* Names, fields and inputs of every row. */
static int nn__plan_names(nn__planner *p) {
    nn_model *m = p->m;
    const nn_layer *rows = m->rows;
    uint32_t i;
    int err;
    for (i = 0; i < m->row_count; i++) {
        char name[NN__NAME_MAX + 1];
        nn__text t = nn__text_to(name, sizeof name);
        int32_t twin;
        if (nn__strlen(rows[i].op->stem) > 32)
            return NN__FAIL(p->o, NN_ERR_ROW, "row %d: its op's stem is longer than 32 bytes",
                            (int)i);
        if (rows[i].name && !nn__name_is_valid(rows[i].name))
            return NN__FAIL(p->o, NN_ERR_ROW,
                            "row %d (%s): its name is empty, longer than 127 bytes, begins with -, "
                            "opt. or aux., or has other characters than A-Z a-z 0-9 . _ / -",
                            (int)i, rows[i].op->name);
        nn__put_name(&t, rows, i);
        twin = nn__find_row(rows, i, name, t.len);
        if (twin >= 0)
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: row %d has the same name", rows, i, (int)twin);
        if ((rows[i].op->role == NN__INPUT_ROLE) != (i == 0))
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: the first row must be an input, and no other",
                            rows, i);
        err = nn__check_fields(p->o, rows, i);
        if (!err) err = nn__plan_inputs(p, i);
        if (err) return err;
    }
    return 0;
}

/* Adds the tensors that the op declared in s for a set of row i. */
static int nn__plan_tensors(nn__planner *p, uint32_t i, const nn_shape *s) {
    nn_model *m = p->m;
    int k, d;
    if (!s->set) m->row[i].tensor = (uint16_t)m->tensor_count;
    m->row[i].tensors = (uint8_t)(m->row[i].tensors + s->tensors);
    for (k = 0; k < s->tensors; k++) {
        nn_tensor *t = &m->tensor[m->tensor_count];
        int64_t count = 1;
        NN_MEMSET(t, 0, sizeof *t);
        for (d = 0; d < s->tensor_ndim[k]; d++) {
            t->dim[d] = s->dim[k][d];
            count = nn__times(count, s->dim[k][d]);
        }
        if (count >= (int64_t)1 << 30)
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: a tensor has 2^30 elements or more", m->rows, i);
        t->count = (uint32_t)count;
        t->row = (uint16_t)i;
        t->alias = (uint16_t)m->tensor_count++;
        t->ndim = s->tensor_ndim[k];
        t->suffix = (uint8_t)(4 * s->set + k);
        t->layout = s->panels[k] ? NN__PANELS : NN__CANONICAL;
        t->grad = t->state = NN_AT_NONE;
        if (m->rows[i].op->running && k >= m->rows[i].op->running) t->flags = NN__RUNNING;
    }
    return 0;
}

/* .share: every tensor of row i becomes an alias of the named row's tensor of that suffix and
   shape; a dense row that is tied to an embedding keeps its bias. */
static int nn__plan_share(nn__planner *p, uint32_t i) {
    nn_model *m = p->m;
    const nn_layer *rows = m->rows;
    int32_t from = nn__find_row(rows, i, rows[i].share, nn__strlen(rows[i].share));
    int k, d, tied;
    if (from < 0)
        return NN__FAIL(p->o, NN_ERR_ROW, "%R: no row above it is called %s", rows, i,
                        rows[i].share);
    if (!m->row[i].tensors)
        return NN__FAIL(p->o, NN_ERR_ROW, "%R: has no tensors to share", rows, i);
    tied = rows[from].op->role == NN__EMBEDDING_ROLE && nn__same(rows[i].op->name, "dense");
    if (rows[i].op != rows[from].op && !tied)
        return NN__FAIL(p->o, NN_ERR_ROW, "%R: shares %s, which is an %s and no %s", rows, i,
                        rows[i].share, rows[from].op->name, rows[i].op->name);
    if (rows[i].lr != 0 || rows[i].no_decay)
        return NN__FAIL(p->o, NN_ERR_ROW,
                        "%R: lr and no_decay belong on the row whose tensors it shares", rows, i);
    for (k = 0; k < m->row[i].tensors; k++) {
        nn_tensor *t = &m->tensor[m->row[i].tensor + k];
        const nn_tensor *other = &m->tensor[m->row[from].tensor + k];
        int same;
        if (tied && k) break;                /* a bias of its own */
        if (tied) t->layout = NN__CANONICAL; /* whose rows can be looked up */
        same = k < m->row[from].tensors && t->layout == other->layout &&
               t->suffix == other->suffix && rows[i].bidirectional == rows[from].bidirectional &&
               nn__or1(rows[i].groups) == nn__or1(rows[from].groups);
        for (d = 0; same && d < 4; d++) same = t->dim[d] == other->dim[d];
        if (!same)
            return NN__FAIL(p->o, NN_ERR_ROW,
                            "%R: shares %s, whose tensors are not of the same shapes", rows, i,
                            rows[i].share);
        t->alias = other->alias;
    }
    m->row[i].flags |= NN__SHARES;
    m->row[m->tensor[m->row[i].tensor].row].flags |= NN__SHARES;
    m->row[m->tensor[m->tensor[m->row[i].tensor].alias].row].flags |= NN__SHARES;
    return 0;
}

/* Shape and tensors of row i. */
static int nn__plan_shape(nn__planner *p, uint32_t i) {
    nn_model *m = p->m;
    nn_row *r = &m->row[i];
    nn_shape s;
    int64_t state = 0;
    int err = 0, k;
    NN_MEMSET(&s, 0, sizeof s);
    s.row = &m->rows[i];
    s.inputs = r->inputs;
    s.out = r;
    s.planner = p;
    s.sets = 1;
    for (k = 0; k < r->inputs; k++) s.in[k] = &m->row[m->input[r->input + k]];
    for (; s.set < s.sets && !err; s.set++) {
        err = m->rows[i].op->shape(&s);
        if (!err && nn__times(nn__times(r->dim[0], r->dim[1]), r->dim[2]) >= (int64_t)1 << 30)
            err = NN__FAIL(p->o, NN_ERR_ROW, "%R: its output has 2^30 elements or more", m->rows,
                           i);
        if (!err &&
            (s.tensors < 0 || s.tensors > 4 || s.tensors > nn__count_words(s.row->op->suffixes)))
            err = NN__FAIL(p->o, NN_ERR_ROW, "%R: its op declares %d tensors", m->rows, i,
                           (int)s.tensors);
        if (!err) err = nn__plan_tensors(p, i, &s);
        state += s.state;
    }
    if (!p->o->stateful || err) return err;
    if (m->carry_size + state >= (int64_t)1 << 30)
        return NN__FAIL(p->o, NN_ERR_ROW, "%R: the states have 2^30 elements or more", m->rows, i);
    m->carry_size += (int32_t)state;
    return 0;
}

/* What lengths and pad ids say of a row's steps: as long as steps stay steps. */
static int nn__plan_mask(nn__planner *p, uint32_t i) {
    nn_model *m = p->m;
    nn_row *r = &m->row[i], *in;
    int role = m->rows[i].op->role;
    if (role == NN__INPUT_ROLE) {
        r->masked = r->ndim == 2 || m->rows[i].type == NN_I32;
        return 0;
    }
    in = &m->row[m->input[r->input]];
    if (m->rows[m->input[r->input]].op->role == NN__INPUT_ROLE &&
        m->rows[m->input[r->input]].type == NN_I32 && role != NN__EMBEDDING_ROLE)
        return NN__FAIL(p->o, NN_ERR_ROW, "%R: reads ids, which only an embedding can", m->rows, i);
    if (m->rows[i].kernel[0] || r->ndim != 2) return 0;
    if (role == NN__EMBEDDING_ROLE) r->masked = (uint16_t)(m->rows[i].mask ? 2 + i : 1);
    else if (in->ndim == 2 && in->dim[1] == r->dim[1]) r->masked = in->masked;
    return 0;
}

static int nn__plan_shapes(nn__planner *p) {
    nn_model *m = p->m;
    uint32_t i;
    int err;
    m->carry_size = 0;
    for (i = 0; i < m->row_count; i++) {
        nn_row *r = &m->row[i];
        r->act = (uint8_t)m->rows[i].act;
        r->act_row = r->fused = (uint16_t)i;
        if (r->act != NN_LEAKY_RELU && m->rows[i].slope != 0)
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: a slope without leaky_relu", m->rows, i);
        r->dim[0] = r->dim[1] = r->dim[2] = 1;
        err = nn__plan_shape(p, i);
        if (err) return err;
        err = nn__plan_mask(p, i);
        if (!err && m->rows[i].share) err = nn__plan_share(p, i);
        if (err) return err;
    }
    return 0;
}

/* Which rows nn_opts.train names; then what is live and what has gradients. */
static int nn__plan_training(nn__planner *p) {
    nn_model *m = p->m;
    const char *list = p->o->train, *word;
    uint32_t i, t;
    size_t n;
    int k;
    while (list && (word = nn__word(&list, &n)) != NULL) {
        int hits = 0;
        for (i = 0; i < m->row_count; i++) {
            char name[NN__NAME_MAX + 1];
            nn__text out = nn__text_to(name, sizeof name);
            nn__put_name(&out, m->rows, i);
            name[out.len] = 0;
            if (!m->row[i].tensors || !nn__matches(word, n, name)) continue;
            for (k = 0; k < m->row[i].tensors; k++) {
                nn_tensor *own = &m->tensor[m->tensor[m->row[i].tensor + k].alias];
                own->flags |= NN__MOVES;
                if (!(own->flags & NN__RUNNING)) own->flags |= NN__IS_TRAINED;
            }
            m->row[i].flags |= NN__TRAINS;
            hits++;
        }
        if (!hits)
            return NN__FAIL(p->o, NN_ERR_OPTION, "train: %W matches no row with parameters", word,
                            n);
    }
    for (t = 0; t < m->tensor_count; t++) {
        m->tensor[t].flags |= m->tensor[m->tensor[t].alias].flags;
        if (m->tensor[t].flags & NN__IS_TRAINED) m->row[m->tensor[t].row].flags |= NN__TRAINS;
    }
    for (i = 0; i < m->row_count; i++) {
        nn_row *r = &m->row[i];
        if (r->flags & NN__TRAINS) r->flags |= NN__LIVE | NN__GRAD;
        if (p->o->input_grad) r->flags |= NN__GRAD;
        for (k = 0; k < r->inputs; k++)
            r->flags |= m->row[m->input[r->input + k]].flags & (NN__LIVE | NN__GRAD);
    }
    return 0;
}

/* The list of vectors that the gradient of a sparse embedding is, in words of the block: how many,
   their ids, a table that finds them (0: empty, else number + 1), the vectors. Zeroed: an empty
   list. */
typedef struct nn__sparse {
    int32_t *count, *id, *table;
    float *vector;
    uint32_t most, slots; /* slots is a power of two, the double of most or more */
    int shift;
} nn__sparse;

/* Its places from at on; tokens: ids of the largest batch. Returns its words. */
static int64_t nn__sparse_lay(nn__sparse *s, const nn_tensor *t, int64_t tokens, float *at) {
    int64_t head;
    NN_MEMSET(s, 0, sizeof *s);
    s->most = (uint32_t)nn__min64(t->dim[0], tokens);
    s->shift = 31;
    for (s->slots = 2; s->slots < 2 * s->most; s->slots *= 2) s->shift--;
    head = nn__round_up(1 + (int64_t)s->most + s->slots, NN__LANES);
    if (at) {
        s->count = (int32_t *)(void *)at;
        s->id = s->count + 1;
        s->table = s->id + s->most;
        s->vector = at + head;
    }
    return head + nn__times(s->most, t->dim[1]);
}

static int64_t nn__tokens(const nn_model *m, const nn_tensor *t, const nn_opts *o) {
    return nn__times(m->row[t->row].dim[1], nn__or1(o->batch));
}

static int nn__is_sparse(const nn_model *m, const nn_tensor *t) {
    return m->rows[t->row].sparse && (t->flags & NN__IS_TRAINED);
}

/* Words of a tensor's gradient. */
static int64_t nn__grad_size(const nn_model *m, const nn_tensor *t, const nn_opts *o) {
    nn__sparse s;
    if (!nn__is_sparse(m, t)) return t->count;
    return nn__sparse_lay(&s, t, nn__tokens(m, t, o), NULL);
}

/* Nothing needs the whole gradient where it is sparse. */
static int nn__plan_sparse(nn__planner *p) {
    const nn_model *m = p->m;
    const nn_opts *o = p->o;
    uint32_t i;
    for (i = 0; i < m->row_count; i++) {
        const nn_layer *row = &m->rows[i];
        const char *whole = o->hook                                     ? "opts.hook"
                            : o->optimizer == NN_SGD && o->momentum != 0 ? "opts.momentum"
                            : o->weight_decay != 0 && !row->no_decay    ? "opts.weight_decay"
                            : m->row[i].flags & NN__SHARES              ? "share"
                                                                        : NULL;
        if (row->sparse && whole && (m->row[i].flags & NN__TRAINS))
            return NN__FAIL(o, NN_ERR_OPTION, "%R: sparse does not go with %s", m->rows, i, whole);
    }
    return 0;
}

static void nn__plan_need(nn__planner *p, uint32_t i, nn_need *need) {
    NN_MEMSET(need, 0, sizeof *need);
    need->training = p->training;
    need->live = p->training && (p->m->row[i].flags & NN__LIVE);
    p->m->rows[i].op->plan(p->m, i, need);
    if (p->m->row[i].flags & (NN__FOLDED | NN__GATHERED)) need->flags = NN_ALIAS;
}

/* Roots and readers, for the list at hand. */
static void nn__plan_uses(nn__planner *p) {
    nn_model *m = p->m;
    uint32_t i;
    int k;
    for (i = 0; i < m->row_count; i++) {
        nn_need need;
        nn__plan_need(p, i, &need);
        p->uses[i] = 0;
        p->root[i] = (uint16_t)i;
        p->value[i] = p->grad[i] = p->keep[i] = NN_AT_NONE;
        if ((need.flags & NN_ALIAS) && m->row[i].inputs) {
            p->root[i] = p->root[m->input[m->row[i].input]];
            continue;
        }
        for (k = 0; k < m->row[i].inputs; k++) p->uses[p->root[m->input[m->row[i].input + k]]]++;
    }
}

/* Every value is read; an activation row is folded into the row it reads, a max pool is done inside
   the convolution it reads, where nobody else reads that and windows do not overlap; the vectors of
   an embedding are gathered by the recurrent row that alone reads them, in one direction. */
static int nn__plan_fusion(nn__planner *p) {
    nn_model *m = p->m;
    uint32_t i;
    int k;
    for (i = 0; i < m->row_count; i++)
        for (p->uses[i] = 0, k = 0; k < m->row[i].inputs; k++)
            p->uses[m->input[m->row[i].input + k]]++;
    for (i = 0; i + 1 < m->row_count; i++)
        if (!p->uses[i])
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: nothing reads its output", m->rows, i);
    for (i = 1; i < m->row_count; i++) {
        nn_row *r = &m->row[i];
        uint32_t in = m->input[r->input];
        const nn_layer *pool = &m->rows[i];
        int role = pool->op->role;
        if (p->uses[in] != 1 || r->inputs != 1) continue;
        if (role == NN__RECURRENT_ROLE && m->rows[in].op->role == NN__EMBEDDING_ROLE &&
            !m->rows[i].bidirectional && !p->o->fuse_update)
            m->row[in].flags |= NN__GATHERED;
        if (role == NN__ACT_ROLE && (m->rows[in].op->fields >> NN__AT_ACT & 1) && !m->row[in].act) {
            m->row[in].act = r->act;
            m->row[in].act_row = (uint16_t)i;
            r->flags |= NN__FOLDED;
        }
        if (m->row[in].flags & NN__FOLDED) in = m->input[m->row[in].input];
        if (role == NN__POOL_ROLE && m->rows[in].op->role == NN__CONV_ROLE &&
            m->row[in].act != NN_SOFTMAX && !pool->pad[0] && !pool->pad[1] && !pool->pad[2] &&
            !pool->pad[3] &&
            nn__pair(pool->stride, 0, nn__pair(pool->kernel, 0, 1)) >=
                nn__pair(pool->kernel, 0, 1) &&
            nn__pair(pool->stride, 1, nn__pair(pool->kernel, 1, 1)) >=
                nn__pair(pool->kernel, 1, 1)) {
            m->row[in].fused = (uint16_t)i;
            r->flags |= NN__INSIDE;
        }
    }
    return 0;
}

static uint32_t nn__new_buffer(nn__planner *p, int64_t size) {
    nn__buffer *b = &p->buffer[p->buffers];
    if (size <= 0) return NN_AT_NONE;
    b->size = size;
    b->first = INT32_MAX;
    b->last = -1;
    b->placed = b->outlives = 0;
    return p->buffers++;
}

static uint32_t nn__new_value(nn__planner *p, uint32_t row) {
    return nn__new_buffer(p, nn__times(nn__elements(&p->m->row[row]), 4 * (int64_t)p->m->micro));
}

static nn_cmd *nn__emit(nn__planner *p, int what, uint32_t row) {
    nn_cmd *c = &p->m->cmd[p->cmds++];
    NN_MEMSET(c, 0xff, sizeof *c);
    c->what = (uint8_t)what;
    c->flags = 0;
    if (p->training && (p->m->row[row].flags & NN__LIVE)) c->flags |= NN__TRAINING;
    if (p->pre_act && row == p->root[p->m->row_count - 1]) c->flags |= NN__NO_ACT;
    c->row = (uint16_t)row;
    return c;
}

/* May row i write its output over its first input? Only if nobody else reads that, now or in
 * backward. */
static int nn__overwrites(nn__planner *p, uint32_t i, const nn_need *need) {
    nn_model *m = p->m;
    uint32_t in = p->root[m->input[m->row[i].input]];
    nn_need producer;
    if (!(need->flags & NN_IN_PLACE) || p->uses[in] != 1 || p->value[in] == NN_AT_INPUT ||
        nn__elements(&m->row[i]) != nn__elements(&m->row[in]))
        return 0;
    if (!p->training || !(m->row[in].flags & NN__GRAD))
        return !(p->training && (m->row[i].flags & NN__GRAD) && (need->flags & NN_NEED_X));
    if (m->row[in].flags & NN__INSIDE) in = p->root[m->input[m->row[in].input]];
    nn__plan_need(p, in, &producer);
    return !(need->flags & NN_NEED_X) && !(producer.flags & NN_NEED_Y);
}

static void nn__emit_forward(nn__planner *p) {
    nn_model *m = p->m;
    uint32_t i, out, inputs;
    for (i = 0; i < m->row_count; i++) {
        nn_row *r = &m->row[i];
        nn_need need;
        uint32_t k, tmp;
        nn__plan_need(p, i, &need);
        if (r->flags & NN__INSIDE) continue;
        if (need.flags & NN_ALIAS) {
            p->value[i] = r->inputs ? p->value[p->root[i]] : NN_AT_INPUT;
            continue;
        }
        out = r->fused;
        p->value[out] = r->inputs && nn__overwrites(p, i, &need)
                            ? p->value[p->root[m->input[r->input]]]
                            : nn__new_value(p, out);
        if (p->training && (r->flags & NN__GRAD))
            p->keep[i] = nn__new_buffer(p, nn__times(need.keep, m->micro) + need.keep_fixed);
        if (p->keep[i] != NN_AT_NONE && (r->flags & NN__TRAINS) && m->rows[i].op->update)
            p->buffer[p->keep[i]].outlives = 1;
        tmp = nn__new_buffer(p, need.tmp);
        inputs = r->inputs > 1 ? r->inputs : 2;
        for (k = 1; k < inputs; k++) {
            nn_cmd *c = nn__emit(p, NN__FORWARD, i);
            c->x = !r->inputs ? NN_AT_INPUT
                   : k > 1    ? p->value[out]
                              : p->value[p->root[m->input[r->input]]];
            c->x2 = k < r->inputs ? p->value[p->root[m->input[r->input + k]]] : NN_AT_NONE;
            c->y = p->value[out];
            c->keep = p->keep[i];
            c->tmp = tmp;
            if (k == 1) c->flags |= NN__FIRST;
            if (k + 1 == inputs) c->flags |= NN__FINAL;
        }
    }
}

/* The gradient of input k of row i: a buffer to write (assigned, or summed into the one that
 * exists). */
static void nn__emit_backward_input(nn__planner *p, uint32_t i, uint32_t k, const nn_need *need,
                                    uint32_t dy) {
    nn_model *m = p->m;
    nn_row *r = &m->row[i];
    uint32_t in = p->root[m->input[r->input + k]], fresh = NN_AT_NONE;
    nn_cmd *c = nn__emit(p, NN__BACKWARD, i);
    int last = k + 1 == r->inputs;
    c->x = p->value[in];
    c->y = p->value[r->fused];
    c->dy = dy;
    c->keep = p->keep[i];
    c->tmp = nn__new_buffer(p, need->tmp_back);
    c->x2 = r->inputs > 1 ? k : NN_AT_NONE;
    if (!(need->flags & NN_NEED_X)) c->x = NN_AT_NONE;
    if (!(need->flags & NN_NEED_Y)) c->y = NN_AT_NONE;
    if (k == 0) c->flags |= NN__FIRST;
    if (last) c->flags |= NN__FINAL;
    if (p->o->fuse_update && (r->flags & NN__TRAINS)) {
        int64_t size = 0;
        uint32_t t;
        for (t = r->tensor; t < (uint32_t)r->tensor + r->tensors; t++)
            if (m->tensor[t].flags & NN__IS_TRAINED && !(t == r->tensor && m->rows[i].op->fuses))
                size += 4 * nn__grad_size(m, &m->tensor[t], p->o);
        c->x2 = nn__new_buffer(p, size);
    }
    if (!(m->row[in].flags & NN__GRAD)) return;
    if (last && (need->flags & NN_IN_PLACE_BACK) && nn__elements(r) == nn__elements(&m->row[in]))
        fresh = dy;
    else fresh = nn__new_value(p, in);
    c->dx = fresh;
    if (p->grad[in] == NN_AT_NONE) {
        p->grad[in] = fresh;
    } else {
        c = nn__emit(p, NN__ACCUMULATE, in);
        c->x = fresh;
        c->y = p->grad[in];
    }
}

static void nn__emit_training(nn__planner *p) {
    nn_model *m = p->m;
    uint32_t i, k, out = p->root[m->row_count - 1], t;
    nn_cmd *c;
    c = nn__emit(p, NN__LOSS, out);
    c->x = p->value[out];
    p->grad[out] = nn__new_value(p, out);
    c->dy = p->grad[out];
    m->forward_count = p->cmds - m->infer_count;
    for (i = m->row_count; i-- > 0;) {
        nn_row *r = &m->row[i];
        nn_need need;
        if (!(r->flags & NN__GRAD) || (r->flags & NN__INSIDE) || !r->inputs) continue;
        nn__plan_need(p, i, &need);
        if (need.flags & NN_ALIAS) continue;
        for (k = 0; k < r->inputs; k++)
            nn__emit_backward_input(p, i, k, &need, p->grad[p->root[r->fused]]);
    }
    if (m->row[0].flags & NN__GRAD) { /* keeps the input's gradient alive to the end */
        c = nn__emit(p, NN__BACKWARD, 0);
        c->dy = p->grad[0];
    }
    m->backward_count = p->cmds - m->infer_count - m->forward_count;
    for (i = 0; i < m->row_count; i++) {
        int own = 0;
        for (t = m->row[i].tensor; t < (uint32_t)m->row[i].tensor + m->row[i].tensors; t++)
            own |= m->tensor[t].alias == t && (m->tensor[t].flags & NN__IS_TRAINED);
        if (!own || (p->o->fuse_update && !m->rows[i].op->update)) continue;
        c = nn__emit(p, NN__UPDATE, i);
        c->keep = m->rows[i].op->update ? p->keep[i] : NN_AT_NONE;
    }
    m->update_count = p->cmds - m->infer_count - m->forward_count - m->backward_count;
}

/* The offset fields of a command that are buffers. */
static int nn__cmd_buffers(nn_model *m, nn_cmd *c, uint32_t *at[7]) {
    uint32_t *field[7];
    int n = 0, k;
    field[0] = &c->x, field[1] = &c->y, field[2] = &c->dx, field[3] = &c->dy;
    field[4] = &c->keep, field[5] = &c->tmp, field[6] = &c->x2;
    for (k = 0; k < 7; k++)
        if (*field[k] < NN_AT_INPUT &&
            !(k == 6 && c->what == NN__BACKWARD && m->row[c->row].inputs > 1))
            at[n++] = field[k];
    return n;
}

/* Reads the lives of buffers off the list and places them, the largest first, as low as they fit.
 */
static void nn__place_buffers(nn__planner *p, uint32_t first_buffer) {
    nn_model *m = p->m;
    uint32_t i, j, *at[7];
    int k, n;
    for (i = p->list; i < p->cmds; i++)
        for (n = nn__cmd_buffers(m, &m->cmd[i], at), k = 0; k < n; k++) {
            nn__buffer *b = &p->buffer[*at[k]];
            b->first = nn__min(b->first, (int32_t)i);
            b->last = (int32_t)i;
        }
    for (;;) {
        nn__buffer *b = NULL;
        int64_t align, offset = 0;
        int moved;
        for (j = first_buffer; j < p->buffers; j++)
            if (!p->buffer[j].placed && !p->buffer[j].outlives && p->buffer[j].last >= 0 &&
                (!b || p->buffer[j].size > b->size))
                b = &p->buffer[j];
        if (!b) break;
        align = b->size >= 4096 ? 64 : NN_ALIGNMENT;
        do {
            for (moved = 0, j = first_buffer; j < p->buffers; j++) {
                const nn__buffer *o = &p->buffer[j];
                if (o->placed && o->first <= b->last && b->first <= o->last &&
                    o->offset < offset + b->size && offset < o->offset + o->size) {
                    offset = nn__round_up(o->offset + o->size, align);
                    moved = 1;
                }
            }
        } while (moved);
        b->placed = 1;
        b->offset = offset;
        if (offset + b->size > p->arena) p->arena = offset + b->size;
    }
    for (j = first_buffer; j < p->buffers; j++) { /* behind everything */
        nn__buffer *b = &p->buffer[j];
        if (!b->outlives) continue;
        p->arena = nn__round_up(p->arena, NN_ALIGNMENT);
        b->offset = p->arena;
        p->arena += b->size;
    }
}

/* Both lists for m->micro samples; offsets within the arena. */
static void nn__plan_lists(nn__planner *p) {
    nn_model *m = p->m;
    uint32_t first;
    p->arena = 0;
    p->buffers = p->cmds = p->list = 0;
    p->training = 0;
    m->forward_count = m->backward_count = m->update_count = 0;
    nn__plan_uses(p);
    nn__emit_forward(p);
    if (p->pre_act) {
        nn_cmd *c = nn__emit(p, NN__LAST_ACT, p->root[m->row_count - 1]);
        c->flags = 0;
        c->y = p->value[m->row_count - 1];
    }
    m->infer_count = p->cmds;
    nn__place_buffers(p, 0);
    if (!NN__CAN_TRAIN || (!p->o->train && !p->o->input_grad)) return;
    p->list = p->cmds;
    p->training = 1;
    first = p->buffers;
    nn__plan_uses(p);
    nn__emit_forward(p);
    nn__emit_training(p);
    nn__place_buffers(p, first);
}

/* Gives n floats a place at *at. */
static uint32_t nn__put_floats(int64_t *at, int64_t n, int64_t align) {
    int64_t start =
        nn__round_up(*at, n >= 1024 ? nn__max((int32_t)align, align > 4 ? 64 : 4) : align);
    *at = start + 4 * n;
    return start < UINT32_MAX ? (uint32_t)start : UINT32_MAX;
}

/* Where tensor i begins in nn_opts.weights. */
static int64_t nn__image_offset(const nn_model *m, uint32_t i) {
    int64_t at = 0;
    uint32_t t;
    for (t = 0; t < i; t++)
        if (m->tensor[t].alias == t) at += 4 * (int64_t)m->tensor[t].count;
    return at;
}

/* Where a tensor that does not change lies: in the block, the image, or the model cloned from. */
static int nn__plan_space(nn__planner *p, uint32_t i, int64_t *at) {
    nn_tensor *t = &p->m->tensor[i];
    if (p->src) {
        const nn_tensor *s = &p->src->tensor[i];
        t->offset = s->offset;
        t->layout = s->layout;
        if (s->flags & NN__IMAGE) t->flags |= NN__IMAGE;
        else t->flags |= NN__PARENT;
        if ((t->flags & NN__PARENT) && !(s->flags & NN__PARENT) && p->src->parent)
            return NN__FAIL(p->o, NN_ERR_CALL, "clone the model this clone was made from");
    } else if (p->o->in_place) {
        t->flags |= NN__IMAGE;
        t->layout = NN__CANONICAL;
        t->offset = (uint32_t)nn__image_offset(p->m, i);
    } else {
        t->offset = nn__put_floats(at, t->count, NN_ALIGNMENT);
    }
    return 0;
}

/* Everything behind the tables, which end at byte at. Returns the bytes of the block, or an error.
 */
static int64_t nn__plan_block(nn__planner *p, int64_t at) {
    nn_model *m = p->m;
    int64_t size;
    uint32_t i, pass;
    int states = p->o->optimizer == NN_ADAM ? 2 : p->o->momentum != 0;
    for (pass = 0; pass < 2; pass++)
        for (i = 0; i < m->tensor_count; i++) {
            nn_tensor *t = &m->tensor[i];
            int err = 0;
            if (t->alias != i || (t->flags & NN__MOVES ? 0u : 1u) != pass) continue;
            if (pass) err = nn__plan_space(p, i, &at);
            else t->offset = nn__put_floats(&at, t->count, NN_ALIGNMENT);
            if (err) return err;
            if (!pass) m->moves_end = (uint32_t)nn__min64(at, UINT32_MAX);
        }
    m->grad_offset = nn__put_floats(&at, 0, NN_ALIGNMENT);
    m->grad_count = m->state_count = 0;
    for (i = 0; i < m->tensor_count; i++) {
        if (m->tensor[i].alias != i || !(m->tensor[i].flags & NN__IS_TRAINED)) continue;
        size = nn__grad_size(m, &m->tensor[i], p->o);
        if (!p->o->fuse_update) m->tensor[i].grad = nn__put_floats(&at, size, 4);
        m->grad_count += (uint32_t)size;
    }
    m->state_offset = nn__put_floats(&at, 0, NN_ALIGNMENT);
    for (i = 0; states && i < m->tensor_count; i++) {
        if (m->tensor[i].alias != i || !(m->tensor[i].flags & NN__IS_TRAINED)) continue;
        m->tensor[i].state = nn__put_floats(&at, (int64_t)m->tensor[i].count * states, 4);
        m->state_count += m->tensor[i].count * (uint32_t)states;
    }
    m->loss_offset = nn__put_floats(&at, p->o->loss ? p->o->batch : 0, 4);
    m->carry_offset = nn__put_floats(&at, nn__times(m->carry_size, p->o->batch), 4);
    at = nn__round_up(at, p->arena >= 4096 ? 64 : NN_ALIGNMENT);
    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *own = &m->tensor[m->tensor[i].alias];
        m->tensor[i].offset = own->offset;
        m->tensor[i].grad = own->grad;
        m->tensor[i].state = own->state;
        m->tensor[i].layout = own->layout;
        m->tensor[i].flags = own->flags;
    }
    for (i = 0; i < p->cmds; i++) {
        uint32_t *field[7];
        int k, n = nn__cmd_buffers(m, &m->cmd[i], field);
        for (k = 0; k < n; k++) *field[k] = (uint32_t)(at + p->buffer[*field[k]].offset);
    }
    return at + p->arena;
}

static int nn__check_choice(const nn_opts *o, const char *name, int32_t value, int32_t most) {
    (void)name;
    if (value >= 0 && value <= most) return 0;
    return NN__FAIL(o, NN_ERR_OPTION, "%s: %d is not from 0 to %d", name, (int)value, (int)most);
}

static int nn__check_real(const nn_opts *o, int code, const char *name, float value) {
    (void)name;
    if (value >= 0 && value <= FLT_MAX) return 0;
    return NN__FAIL(o, code, "%s is negative or not finite", name);
}

/* The rows and the options make sense together. Defaults are filled in here and nowhere else. */
static int nn__plan_options(nn_opts *o) {
    int train = o->train != NULL, err;
    if (o->batch < 0) return NN__FAIL(o, NN_ERR_OPTION, "batch: %d is negative", (int)o->batch);
    err = nn__check_choice(o, "loss", o->loss, NN_CROSS_ENTROPY);
    if (!err) err = nn__check_choice(o, "optimizer", o->optimizer, NN_ADAM);
    if (!err) err = nn__check_choice(o, "eps_mode", o->eps_mode, NN_EPS_KERAS);
    if (!err) err = nn__check_choice(o, "init", o->init, NN_INIT_KERAS);
    if (!err) err = nn__check_real(o, NN_ERR_OPTION, "lr", o->lr);
    if (!err) err = nn__check_real(o, NN_ERR_OPTION, "momentum", o->momentum);
    if (!err) err = nn__check_real(o, NN_ERR_OPTION, "weight_decay", o->weight_decay);
    if (!err) err = nn__check_real(o, NN_ERR_OPTION, "eps", o->eps);
    if (err) return err;
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1))
        return NN__FAIL(o, NN_ERR_OPTION, "beta1 and beta2 must be from 0 to below 1");
    if (!NN__CAN_TRAIN && (train || o->input_grad))
        return NN__FAIL(o, NN_ERR_OPTION, "train and input_grad: this build has NN_NO_TRAIN");
    if (train && !o->loss) return NN__FAIL(o, NN_ERR_OPTION, "train is set but loss is not");
    if (train && !(o->lr > 0)) return NN__FAIL(o, NN_ERR_OPTION, "train is set but lr is zero");
    if (train && !nn__count_words(o->train))
        return NN__FAIL(o, NN_ERR_OPTION,
                        "train: the list of patterns is empty; NULL means inference");
    if (o->fuse_update && o->hook)
        return NN__FAIL(o, NN_ERR_OPTION,
                        "fuse_update: the hook needs gradients, which are not kept");
    if (o->fuse_update && o->input_grad)
        return NN__FAIL(o, NN_ERR_OPTION,
                        "fuse_update: input_grad is for nn_backward, which cannot be called then");
    if (o->steps < 0) return NN__FAIL(o, NN_ERR_OPTION, "steps: %d is negative", (int)o->steps);
    if (o->budget < 0) return NN__FAIL(o, NN_ERR_OPTION, "budget: %D is negative", o->budget);
    if (!o->batch) o->batch = 1;
    if (o->beta1 <= 0) o->beta1 = 0.89999997615814209f;
    if (o->beta2 <= 0) o->beta2 = 0.99900001287460327f;
    if (o->eps <= 0) o->eps = o->eps_mode ? 1.0000000116860974e-7f : 9.9999999392252903e-9f;
    return 0;
}

/* The last row against the loss, and fuse_update against the rows. */
static int nn__plan_output(nn__planner *p) {
    nn_model *m = p->m;
    const nn_opts *o = p->o;
    uint32_t out = m->row_count - 1, i;
    while (m->row[out].flags & NN__FOLDED) out = m->input[m->row[out].input];
    m->in_size = (int32_t)nn__elements(&m->row[0]);
    m->out_size = (int32_t)nn__elements(&m->row[m->row_count - 1]);
    p->pre_act = (o->loss == NN_BCE && m->row[out].act == NN_SIGMOID) ||
                 (o->loss == NN_CROSS_ENTROPY && m->row[out].act == NN_SOFTMAX);
    if ((o->loss == NN_BCE && m->row[out].act == NN_SOFTMAX) ||
        (o->loss == NN_CROSS_ENTROPY && m->row[out].act == NN_SIGMOID))
        return NN__FAIL(o, NN_ERR_OPTION,
                        "%R: its activation does not go with the loss (softmax: "
                        "NN_CROSS_ENTROPY, sigmoid: NN_BCE)",
                        m->rows, out);
    if (o->loss == NN_CROSS_ENTROPY && m->row[out].dim[2] < 2)
        return NN__FAIL(o, NN_ERR_OPTION, "%R: cross-entropy needs at least 2 outputs, has %S",
                        m->rows, out, &m->row[out]);
    if (o->input_grad && m->rows[0].type == NN_I32)
        return NN__FAIL(o, NN_ERR_OPTION, "input_grad: the input are ids, which have no gradient");
    for (i = 0; i < m->row_count; i++)
        if ((m->row[i].flags & NN__GRAD) && !m->rows[i].op->backward)
            return NN__FAIL(o, NN_ERR_OPTION,
                            "%R: its op has no backward, so nothing up to it can train", m->rows,
                            i);
    for (i = 0; i < m->row_count && o->fuse_update; i++)
        if ((m->row[i].flags & NN__TRAINS) && m->row[i].inputs > 1)
            return NN__FAIL(o, NN_ERR_OPTION, "fuse_update: %R has several inputs", m->rows, i);
        else if ((m->row[i].flags & NN__TRAINS) && (m->row[i].flags & NN__SHARES))
            return NN__FAIL(o, NN_ERR_OPTION,
                            "fuse_update: %R shares its tensors, so its gradients have to "
                            "be summed first",
                            m->rows, i);
    return 0;
}

/* Carves the next piece out of memory (NULL: only counts). */
static void *nn__take(unsigned char *memory, int64_t *at, int64_t bytes) {
    int64_t start = *at;
    *at = start + nn__round_up(bytes, NN_ALIGNMENT);
    return memory ? memory + start : NULL;
}

/* Points the model's tables, and those of planning with p, into memory, with room for the counts in
   m. memory NULL: only counts. Returns the bytes. */
static int64_t nn__lay_tables(nn_model *m, nn__planner *p, uint32_t cmds, unsigned char *memory) {
    int64_t at = 0, rows = m->row_count;
    m->row = (nn_row *)nn__take(memory, &at, rows * (int64_t)sizeof(nn_row));
    m->input = (uint16_t *)nn__take(memory, &at, (int64_t)m->input_count * 2);
    m->tensor =
        (nn_tensor *)nn__take(memory, &at, (int64_t)m->tensor_count * (int64_t)sizeof(nn_tensor));
    m->cmd = (nn_cmd *)nn__take(memory, &at, (int64_t)cmds * (int64_t)sizeof(nn_cmd));
    if (p) {
        p->root = (uint16_t *)nn__take(memory, &at, rows * 2);
        p->uses = (uint32_t *)nn__take(memory, &at, rows * 4);
        p->value = (uint32_t *)nn__take(memory, &at, rows * 4);
        p->grad = (uint32_t *)nn__take(memory, &at, rows * 4);
        p->keep = (uint32_t *)nn__take(memory, &at, rows * 4);
        p->buffer = (nn__buffer *)nn__take(memory, &at,
                                           (int64_t)p->buffer_max * (int64_t)sizeof(nn__buffer));
    }
    return at;
}

static int64_t nn__tables_size(const nn_model *m, uint32_t cmds) {
    nn_model copy = *m;
    return nn__lay_tables(&copy, NULL, cmds, NULL);
}

/* Plans into the workspace that p's tables lie in; front bytes stand before the tables in the
   block. Returns the bytes of the block, or an error. */
static int64_t nn__plan_all(nn__planner *p, nn_opts *o, int64_t front) {
    nn_model *m = p->m;
    int64_t total, least;
    int err = nn__plan_options(o);
    m->input_count = m->tensor_count = 0;
    if (!err) err = nn__plan_names(p);
    if (!err) err = nn__plan_shapes(p);
    if (!err) err = nn__plan_training(p);
    if (!err) err = nn__plan_sparse(p);
    if (!err) err = nn__plan_fusion(p);
    if (!err) err = nn__plan_output(p);
    if (err) return err;
    m->micro = o->batch;
    m->tight = 0;
    for (;;) {
        nn__plan_lists(p);
        total = nn__plan_block(p, front + nn__tables_size(m, p->cmds));
        if (total < 0 || !o->budget || total <= o->budget) break;
        least = total;
        if (m->micro == 1 && !m->tight) {
            m->tight = 1;
            continue;
        }
        if (m->micro == 1)
            return NN__FAIL(o, NN_ERR_MEMORY, "budget: %D bytes, but one sample at a time needs %D",
                            o->budget, least);
        m->micro -= m->micro / 2;
    }
    if (total > UINT32_MAX)
        return NN__FAIL(o, NN_ERR_MEMORY, "the model needs %D bytes, more than 4 GiB", total);
    if (total > 0 && m->micro < o->batch) {
        uint32_t i;
        if (o->fuse_update)
            return NN__FAIL(o, NN_ERR_OPTION,
                            "budget: needs micro-batches of %d, which fuse_update cannot "
                            "sum",
                            (int)m->micro);
        for (i = 0; i < m->row_count; i++)
            if ((m->row[i].flags & NN__TRAINS) &&
                (m->rows[i].op->running || (m->row[i].flags & NN__SHARES)))
                return NN__FAIL(o, NN_ERR_OPTION,
                                "budget: needs micro-batches of %d, but %R (batch "
                                "statistics or shared tensors) needs the whole batch at once",
                                (int)m->micro, m->rows, i);
    }
    return total;
}

/* What of the rows is known before planning: counts that bound every table. */
static int nn__plan_counts(nn_model *m, nn__planner *p) {
    uint32_t i, edges = 0;
    for (i = 0; i < m->row_count; i++) {
        int words = m->rows[i].from ? nn__count_words(m->rows[i].from) : 1;
        edges +=
            (uint32_t)words + (uint32_t)(m->rows[i].with ? nn__count_words(m->rows[i].with) : 0);
        if (edges > 8 * NN__ROWS_MAX)
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: more than 8 inputs", m->rows, i);
    }
    m->input_count = edges;
    m->tensor_count = 0;
    for (i = 0; i < m->row_count; i++) {
        int32_t layers = m->rows[i].op->role == NN__RECURRENT_ROLE ? m->rows[i].layers : 1;
        if (layers > NN__LAYERS_MAX)
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: %d layers, more than %d", m->rows, i,
                            (int)layers, NN__LAYERS_MAX);
        m->tensor_count += 4 * (uint32_t)nn__max(1, layers) * (m->rows[i].bidirectional ? 2 : 1);
        if (m->tensor_count > 0xffff)
            return NN__FAIL(p->o, NN_ERR_ROW, "%R: too many tensors", m->rows, i);
    }
    p->cmd_max = 3 * m->row_count + 4 * edges + 4;
    p->buffer_max = 6 * m->row_count + 3 * edges + 1;
    return 0;
}

/* nn_memory and nn_build in one: what differs is whether m's block is laid out at the end. rows or
   text (text NULL: rows). */
typedef struct nn__source {
    const nn_layer *rows;
    const char *text;
    size_t text_size;
    int32_t text_rows;
    int64_t aux_bytes; /* behind the text in the block, see nn__take_aux */
    const nn_model *src;
    int file; /* the values come from a file */
    /* nn__parse_rows for a text: through here, so that rows alone link no parser */
    int (*parse)(const nn_opts *o, const char *text, size_t size, int32_t rows, unsigned char *to);
} nn__source;

static int nn__misaligned(const void *p, size_t to) { return ((uintptr_t)p & (to - 1)) != 0; }

/* Takes the block: the caller's, checked, or malloc's. */
static int nn__take_block(nn_model *m, const nn_opts *o, int64_t total) {
    if (o->memory) {
        if (o->memory_size < (uint64_t)total)
            return NN__FAIL(o, NN_ERR_MEMORY, "the block has %D bytes, the model needs %D",
                            (int64_t)o->memory_size, total);
        m->block = (unsigned char *)o->memory;
    } else {
        if ((uint64_t)total <= SIZE_MAX - 64) m->owned = NN_MALLOC((size_t)total + 64);
        if (!m->owned) return NN__FAIL(o, NN_ERR_MEMORY, "malloc of %D bytes failed", total);
        m->block = (unsigned char *)m->owned + (64 - ((uintptr_t)m->owned & 63));
    }
    m->block_size = (size_t)total;
    return 0;
}

/* Moves rows and tables from the workspace to the block. */
static int nn__settle(nn_model *m, const nn_opts *o, const nn__source *s, int64_t front,
                      int64_t total, uint32_t cmds) {
    nn_model plan = *m;
    int err = nn__take_block(m, o, total);
    if (err) return err;
    if (s->text) {
        err = s->parse(o, s->text, s->text_size, s->text_rows, m->block);
        if (err) return err;
        m->rows = (const nn_layer *)(const void *)m->block;
    }
    nn__lay_tables(m, NULL, cmds, m->block + front);
    NN_MEMCPY(m->row, plan.row, plan.row_count * sizeof(nn_row));
    NN_MEMCPY(m->input, plan.input, plan.input_count * sizeof(uint16_t));
    NN_MEMCPY(m->tensor, plan.tensor, plan.tensor_count * sizeof(nn_tensor));
    NN_MEMCPY(m->cmd, plan.cmd, cmds * sizeof(nn_cmd));
    return 0;
}

/* The workspace of planning: malloc's, or under NN_NO_MALLOC the end of the caller's block, so that
   what is planned can be copied to its beginning. */
static unsigned char *nn__take_workspace(const nn_opts *o, int64_t bytes, void **owned) {
    *owned = NULL;
    if (!NN__PLANS_IN_BLOCK) {
        if ((uint64_t)bytes <= SIZE_MAX) *owned = NN_MALLOC((size_t)bytes);
        if (!*owned) (void)NN__FAIL(o, NN_ERR_MEMORY, "malloc of %D bytes to plan failed", bytes);
        return (unsigned char *)*owned;
    }
    if (!o->memory || o->memory_size < (uint64_t)bytes) {
        (void)NN__FAIL(o, NN_ERR_MEMORY, "the block has %D bytes, planning alone needs %D",
                       o->memory ? (int64_t)o->memory_size : (int64_t)0, bytes);
        return NULL;
    }
    return (unsigned char *)o->memory +
           ((o->memory_size - (size_t)bytes) & ~(size_t)(NN_ALIGNMENT - 1));
}

/* Checks of the arguments that need no rows. */
static int nn__check_source(const nn__source *s, const nn_opts *o) {
    int i, k;
    if (!s->text && !s->rows) return NN__FAIL(o, NN_ERR_ROW, "rows is NULL");
    if (nn__misaligned(o->memory, NN_ALIGNMENT))
        return NN__FAIL(o, NN_ERR_ALIGN, "memory is not aligned to %d bytes", NN_ALIGNMENT);
    if (nn__misaligned(o->weights, 4))
        return NN__FAIL(o, NN_ERR_ALIGN, "weights is not aligned to 4 bytes");
    for (i = 0; o->aux && o->aux[i].name; i++) {
        const nn_aux *a = &o->aux[i];
        for (k = 0; k < i && !nn__same(a->name, o->aux[k].name); k++) {}
        if (k < i || !nn__name_is_valid(a->name) || !a->bytes || !a->size || a->size > INT32_MAX)
            return NN__FAIL(o, NN_ERR_OPTION,
                            "aux: number %d has no valid name, no bytes, or another's name", i);
    }
    if (nn__float_is_broken())
        return NN__FAIL(o, NN_ERR_FLOAT,
                        "this program reorders arithmetic (-ffast-math or a part of it?)");
    return 0;
}

/* Plans m->rows in a workspace, then lays the block out if build. text_bytes of the block hold rows
   that came as text, in front of what came with them. Returns the bytes of the block, or an
   error. */
static int64_t nn__plan_rows(nn__planner *p, const nn__source *s, nn_opts *o, int64_t text_bytes,
                             int build) {
    nn_model *m = p->m;
    int64_t total, work, front = text_bytes + s->aux_bytes;
    unsigned char *workspace;
    void *owned;
    int err;
    m->row_count = nn__count_rows(m->rows);
    if (!m->row_count || m->row_count > NN__ROWS_MAX)
        return NN__FAIL(o, NN_ERR_ROW, "the table has %d rows, not 1 to %d", (int)m->row_count,
                        NN__ROWS_MAX);
    err = nn__plan_counts(m, p);
    if (err) return err;
    work = nn__lay_tables(m, p, p->cmd_max, NULL);
    workspace = nn__take_workspace(o, work + (NN__PLANS_IN_BLOCK ? text_bytes : 0), &owned);
    if (!workspace) return NN_ERR_MEMORY;
    NN_MEMSET(workspace, 0, (size_t)work);
    nn__lay_tables(m, p, p->cmd_max, workspace);
    total = nn__plan_all(p, o, front);
    if (total > 0 && NN__PLANS_IN_BLOCK) {
        int64_t both = front + nn__tables_size(m, p->cmds) + text_bytes + work;
        if (total < both) total = both;
    }
    if (total > 0 && build) {
        err = nn__settle(m, o, s, front, total, p->cmds);
        if (err) total = err;
    }
    NN_FREE(owned);
    return total;
}

static int64_t nn__plan(nn_model *m, const nn__source *s, const nn_opts *given, int build) {
    nn_opts o = nn__given(given);
    nn__planner p;
    int64_t text_bytes = 0, total;
    void *owned = NULL;
    NN_MEMSET(m, 0, sizeof *m);
    NN_MEMSET(&p, 0, sizeof p);
    p.m = m;
    p.o = &o;
    p.src = s->src;
    m->opts = o;
    m->rows = s->rows;
    total = nn__check_source(s, &o);
    if (!total && s->text) {
        unsigned char *workspace;
        text_bytes = nn__text_bytes(s->text_rows, s->text_size);
        workspace = nn__take_workspace(&o, text_bytes, &owned);
        m->rows = (const nn_layer *)(const void *)workspace;
        total = workspace ? s->parse(&o, s->text, s->text_size, s->text_rows, workspace)
                          : NN_ERR_MEMORY;
    }
    if (!total) total = nn__plan_rows(&p, s, &o, text_bytes, build);
    NN_FREE(owned);
    m->opts = o;
    m->kernels = nn__find_kernels(NULL);
    return total;
}

/* >>ops -----------------------------------------------------------------------------------------
   One block an op, of one shape: formula and layout; shape (the only place that refuses); plan
   (scratch, what is kept for backward, what may be overwritten); forward; backward. Gradients of
   parameters accumulate (+=), gradients of activations assign. To add an op: its block, its line in
   nn.h's list of ops, its line in NN_OPS, its paragraph in the manual, its cases in the tests. */

/* The place of an offset of a command: in the block, the caller's samples, or NULL. */
NN__INLINE unsigned char *nn__at(const nn_model *m, uint32_t offset) {
    if (offset == NN_AT_NONE) return NULL;
    if (offset == NN_AT_INPUT) return (unsigned char *)(uintptr_t)m->run.x;
    return m->block + offset;
}

NN__INLINE float *nn__floats(const nn_model *m, uint32_t offset) {
    return (float *)(void *)nn__at(m, offset);
}

NN__INLINE float *nn__values(const nn_model *m, const nn_tensor *t) {
    const unsigned char *base = t->flags & NN__IMAGE    ? m->image
                                : t->flags & NN__PARENT ? m->parent
                                                        : m->block;
    return (float *)(void *)(uintptr_t)(base + t->offset);
}

/* Number i of labels or ids, which need not be aligned. */
NN__INLINE int32_t nn__label(const unsigned char *target, size_t i) {
    int32_t label;
    NN_MEMCPY(&label, target + 4 * i, 4);
    return label;
}

NNDEF float *nn_at(const nn_model *m, uint32_t offset) { return nn__floats(m, offset); }

NN__INLINE const nn_tensor *nn__tensor(const nn_model *m, const nn_cmd *c, int k) {
    return &m->tensor[m->row[c->row].tensor + k];
}

/* Input 0 of a command's row. */
NN__INLINE const nn_row *nn__in(const nn_model *m, const nn_cmd *c) {
    return &m->row[m->input[m->row[c->row].input]];
}

/* The sparse gradient that begins at at. */
static nn__sparse nn__sparse_at(const nn_model *m, const nn_tensor *t, float *at) {
    nn__sparse s;
    (void)nn__sparse_lay(&s, t, nn__tokens(m, t, &m->opts), at);
    return s;
}

NN__INLINE size_t nn__samples(const nn_model *m) { return (size_t)m->run.n; }

/* The activation that a row applies to its own output, unless it is left to somebody else. */
static void nn__apply_act(const nn_model *m, const nn_cmd *c, float *y, size_t n) {
    const nn_row *r = &m->row[c->row];
    float slope = m->rows[r->act_row].slope;
    if (r->act == NN_LINEAR || (c->flags & NN__NO_ACT)) return;
    if (slope == 0) slope = 0.0099999997764825821f;
    NN__CALL(m, act, y, n, r->dim[2], r->act, slope);
}

#ifndef NN_NO_TRAIN
static void nn__apply_act_grad(const nn_model *m, const nn_cmd *c, float *dy, const float *y,
                               size_t n) {
    const nn_row *r = &m->row[c->row];
    float slope = m->rows[r->act_row].slope;
    if (r->act == NN_LINEAR || (c->flags & NN__NO_ACT)) return;
    if (slope == 0) slope = 0.0099999997764825821f;
    NN__CALL(m, act_grad, dy, y, n, r->dim[2], r->act, slope);
}

/* Does the gradient of t only count as zero? Who asks makes it what it should be. */
static int nn__take_stale(const nn_model *m, const nn_tensor *t) {
    nn_tensor *own = &m->tensor[t->alias];
    int stale = (own->flags & NN__STALE) != 0;
    own->flags = (uint8_t)(own->flags & ~NN__STALE);
    return stale;
}

/* A gradient of zeros at at; the vectors of a sparse one become zero when they are entered. */
static void nn__clear_grad(const nn_model *m, const nn_tensor *t, float *at) {
    size_t words = t->count;
    if (nn__is_sparse(m, t)) words = (size_t)(nn__sparse_at(m, t, at).vector - at);
    NN_MEMSET(at, 0, 4 * words);
}

/* The vector of id in a sparse gradient, entered if it is new; NULL: it is new, and v is zero, as
   behind the length of a sequence. */
static float *nn__sparse_vector(const nn__sparse *s, int32_t id, const float *v, size_t units) {
    uint32_t slot = (uint32_t)id * 0x9e3779b1u >> s->shift;
    float *to = s->vector;
    size_t i = 0;
    while (s->table[slot] && s->id[s->table[slot] - 1] != id) slot = (slot + 1) & (s->slots - 1);
    if (s->table[slot]) return to + (size_t)(s->table[slot] - 1) * units;
    while (i < units && v[i] == 0) i++;
    if (i == units) return NULL;
    to += (size_t)*s->count * units;
    s->id[*s->count] = id;
    s->table[slot] = ++*s->count;
    NN_MEMSET(to, 0, 4 * units);
    return to;
}

/* Makes zero what only counts as zero. */
static void nn__settle_one(const nn_model *m, const nn_tensor *t) {
    if (nn__take_stale(m, t)) nn__clear_grad(m, t, nn__floats(m, t->grad));
}

static void nn__settle_grad(const nn_model *m) {
    uint32_t i;
    for (i = 0; i < m->tensor_count; i++) nn__settle_one(m, &m->tensor[i]);
}

/* The gradient of tensor k of a command's row, to add to; NULL: it does not train. With fuse_update
   it lies in the command's scratch, behind those of the tensors before it. */
static float *nn__grad(const nn_model *m, const nn_cmd *c, int k) {
    const nn_tensor *t = nn__tensor(m, c, k);
    uint32_t at = c->x2;
    int i = m->rows[c->row].op->fuses;
    if (!(t->flags & NN__IS_TRAINED)) return NULL;
    if (t->grad != NN_AT_NONE) {
        nn__settle_one(m, t);
        return nn__floats(m, t->grad);
    }
    for (; i < k; i++) at += 4 * nn__tensor(m, c, i)->count;
    return nn__floats(m, at);
}

static void nn__update_part(nn_model *m, const nn_tensor *t, const nn__step *s, uint32_t first,
                            uint32_t count, const float *g);
static nn__step nn__step_of(const nn_model *m, uint32_t i);
#endif

/* A product of a row: one sample, nothing set. */
static void nn__begin_gemm(nn__gemm *g) {
    int i;
    NN_MEMSET(g, 0, sizeof *g);
    for (i = 0; i < 3; i++) g->rows[i] = g->n[i] = 1;
    g->bj = g->cc = g->cr[0] = 1;
}

/* Rows that lie at one distance become one run of rows: tiles fill better. */
static void nn__merge_rows(nn__gemm *g) {
    int k, l;
    for (k = 0; k < 2; k++)
        for (l = 0; l < 2; l++) {
            int32_t n = g->rows[l];
            if (n != 1 && (g->ar[l + 1] != n * g->ar[l] || g->cr[l + 1] != n * g->cr[l])) continue;
            if (n == 1) g->ar[l] = g->ar[l + 1], g->cr[l] = g->cr[l + 1];
            g->rows[l] *= g->rows[l + 1];
            g->rows[l + 1] = 1;
            if (l) continue;
            g->ar[1] = g->ar[2], g->cr[1] = g->cr[2];
            g->rows[1] = g->rows[2];
            g->rows[2] = 1;
        }
}

/* Is relu left to the product of this row? */
static uint8_t nn__relu_inside(const nn_model *m, const nn_cmd *c) {
    return m->row[c->row].act == NN_RELU && !(c->flags & NN__NO_ACT);
}

/* B of a product is the weight t with k rows, as it lies. */
static void nn__set_weight(const nn_model *m, const nn_tensor *t, nn__gemm *g) {
    ptrdiff_t k = (ptrdiff_t)(t->count / (uint32_t)t->dim[0]);
    g->b = nn__values(m, t);
    g->bc = k;
    g->bj = t->layout == NN__PANELS ? 1 : k;
    g->b_panels = t->layout == NN__PANELS;
    g->bk[0] = 1;
}

/* Rows of a matrix: inner of them at one distance, outer runs of those at another. */
typedef struct nn__span {
    float *at;
    ptrdiff_t inner, outer;
} nn__span;

static nn__span nn__span_of(float *at, ptrdiff_t inner, ptrdiff_t outer) {
    nn__span s;
    s.at = at;
    s.inner = inner;
    s.outer = outer;
    return s;
}

/* The product of inner x outer rows of a by a matrix into rows of c. */
static nn__gemm nn__product(nn__span a, nn__span c, int32_t inner, int32_t outer, int add) {
    nn__gemm g;
    nn__begin_gemm(&g);
    g.a = a.at;
    g.ar[0] = a.inner;
    g.ar[1] = a.outer;
    g.ak[0] = 1;
    g.c = c.at;
    g.cr[0] = c.inner;
    g.cr[1] = c.outer;
    g.rows[0] = inner;
    g.rows[1] = outer;
    g.add = (uint8_t)add;
    nn__merge_rows(&g);
    return g;
}

/* y[..][o] (+)= sum_i x[..][i] w[o][i] (+ bias[o]) */
static void nn__linear(const nn_model *m, const nn_tensor *w, const float *bias, nn__span x,
                       nn__span y, int32_t inner, int32_t outer, int add) {
    nn__gemm g = nn__product(x, y, inner, outer, add);
    nn__set_weight(m, w, &g);
    g.bias = bias;
    g.cols = w->dim[0];
    g.n[0] = w->dim[1];
    NN__CALL(m, gemm, &g);
}

/* Floats that nn__pack_transposed writes. */
static int64_t nn__transposed_size(int64_t out, int64_t in) {
    return nn__times(out, nn__round_up(in, NN__LANES));
}

#ifndef NN_NO_TRAIN
/* dx[..][i] (+)= sum_o dy[..][o] w[o][i]. packed: w as nn__pack_transposed left it; NULL: w as it
   lies. */
static void nn__linear_input_grad(const nn_model *m, const nn_tensor *w, const float *packed,
                                  nn__span dy, nn__span dx, int32_t inner, int32_t outer, int add) {
    int32_t in = w->dim[1], out = w->dim[0], whole = w->layout == NN__PANELS ? out & ~15 : out;
    nn__gemm g = nn__product(dy, dx, inner, outer, add);
    g.ak[1] = NN__LANES;
    g.b = packed ? packed : nn__values(m, w);
    g.cols = in;
    g.n[0] = out;
    g.bc = packed ? out : 1;
    g.bk[0] = packed ? NN__LANES : in;
    if (w->layout == NN__PANELS && !packed) {
        g.bc = g.bj = NN__LANES;
        g.bk[0] = 1;
        g.bk[1] = (ptrdiff_t)NN__LANES * in;
        g.n[0] = NN__LANES;
        g.n[1] = whole / NN__LANES;
    }
    if (whole || packed) NN__CALL(m, gemm, &g);
    if (whole == out || packed) return;
    g.a += whole;
    g.b += (ptrdiff_t)whole * in;
    g.bc = g.bj = out - whole;
    g.n[0] = out - whole;
    g.n[1] = 1;
    g.add |= whole != 0;
    NN__CALL(m, gemm, &g);
}

/* w as panels of 16 inputs, each [out][16], for products that meet it more than once. */
static void nn__pack_transposed(const nn_model *m, const nn_tensor *w, float *to) {
    int32_t in = w->dim[1], out = w->dim[0], whole = w->layout == NN__PANELS ? out & ~15 : 0, i;
    for (i = 0; i < in; i += NN__LANES, to += out * NN__LANES) {
        int32_t width = nn__min(NN__LANES, in - i), n[3] = { NN__LANES, 1, 1 }, rest = out - whole;
        ptrdiff_t bk[3] = { 1, 0, 0 };
        n[1] = whole / NN__LANES;
        bk[1] = (ptrdiff_t)NN__LANES * in;
        NN__CALL(m, pack, to, nn__values(m, w) + i * NN__LANES, n, bk, NN__LANES, width);
        n[0] = rest;
        n[1] = 1;
        if (w->layout == NN__PANELS)
            NN__CALL(m, pack, to + whole * NN__LANES,
                     nn__values(m, w) + (ptrdiff_t)whole * in + i * rest, n, bk, rest, width);
        bk[0] = in;
        if (w->layout != NN__PANELS)
            NN__CALL(m, pack, to, nn__values(m, w) + i, n, bk, 1, width);
    }
}
#endif

/* Kernel, stride, dilation and pads of a windowed row, by axis. A sequence [T,C] is [1,T,C] here:
   its only axis is the second. */
typedef struct nn__frame {
    int32_t kernel[2], stride[2], dilation[2], before[2], after[2];
} nn__frame;

static nn__frame nn__frame_of(const nn_layer *row, int ndim) {
    nn__frame f;
    int along = ndim == 2, axis;
    for (axis = 0; axis < 2; axis++) {
        int at = along ? 0 : axis, none = along && !axis;
        f.kernel[axis] = none ? 1 : nn__pair(row->kernel, at, 1);
        f.stride[axis] = none ? 1
                              : nn__pair(row->stride, at,
                                         row->op->role == NN__CONV_ROLE ? 1 : f.kernel[axis]);
        f.dilation[axis] = none ? 1 : nn__pair(row->dilation, at, 1);
        f.before[axis] = none ? 0 : row->pad[at];
        f.after[axis] = none ? 0 : row->pad[along ? 1 : at + 2];
    }
    return f;
}

/* Output shape of a channels-last row. */
static void nn__set_shape(nn_row *r, int32_t h, int32_t w, int32_t c) {
    r->dim[0] = h;
    r->dim[1] = w;
    r->dim[2] = c;
    r->ndim = 3;
}

/* The descriptor of an op, from its block's functions (as: those of this name). */
#define NN__F(field) (1u << NN__AT_##field)
/* clang-format off */
#define NN__DEFINE_OP_AS(id, as, stem, suffixes, inputs_min, inputs_max, running, role, fuses,    \
                         shape, plan, update, fields)                                             \
    NN__CONSTANT_BEGIN const nn_op nn_op_##id = {                                                 \
        #id, stem, suffixes, fields, inputs_min, inputs_max, running, role, fuses,                \
        NN__PLAN_ONLY(shape), NN__PLAN_ONLY(plan), nn__##as##_forward,                            \
        NN__TRAIN_ONLY(nn__##as##_backward), update                                               \
    };                                                                                            \
    NN__CONSTANT_END
#define NN__DEFINE_OP(id, stem, suffixes, inputs_min, inputs_max, running, role, fuses, shape,    \
                      plan, update, fields)                                                       \
    NN__DEFINE_OP_AS(id, id, stem, suffixes, inputs_min, inputs_max, running, role, fuses,        \
                     shape, plan, update, fields)
/* clang-format on */

/* ---- input: y = (x * scale - mean) / std, uint8 to float, channels first to last ---- */

static int nn__input_is_scaled(const nn_layer *row) {
    int k, scaled = row->scale != 0;
    for (k = 0; k < 4; k++) scaled |= row->mean[k] != 0 || row->std[k] != 0;
    return scaled;
}

static int nn__input_shape(nn_shape *s) {
    const nn_layer *row = s->row;
    int n = 0, k;
    int32_t steps;
    while (n < 3 && row->shape[n]) n++;
    for (k = n; k < 3; k++)
        if (row->shape[k]) return nn_row_error(s, "shape has a zero before its last dimension");
    if (!n) return nn_row_error(s, "shape is missing");
    for (k = 0; k < n; k++) s->out->dim[3 - n + k] = row->shape[k];
    s->out->ndim = (uint8_t)n;
    if (row->order && n < 2)
        return nn_row_error(s, "order = NN_CHW needs a shape of two or three dimensions");
    if (row->type == NN_I32 && (n > 1 || nn__input_is_scaled(row)))
        return nn_row_error(s, "type = NN_I32 takes ids: shape {T}, no scale, mean or std");
    steps = ((const nn__planner *)s->planner)->o->steps;
    if (steps && row->type != NN_I32 && n != 2)
        return nn_row_error(s, "opts.steps needs sequences: shape {T,C}, or {T} of ids");
    if (steps) s->out->dim[row->type == NN_I32 ? 2 : 1] = steps;
    for (k = 0; k < 4; k++) {
        if (row->mean[k] == 0 && row->std[k] == 0) continue;
        if (s->out->dim[2] > 4)
            return NN__ROW_FAIL(s, "mean and std take at most 4 channels, not %d",
                                (int)s->out->dim[2]);
        if (k >= s->out->dim[2])
            return NN__ROW_FAIL(s, "mean or std for channel %d of %d", k + 1, (int)s->out->dim[2]);
    }
    return 0;
}

static void nn__input_plan(const nn_model *m, uint32_t row, nn_need *need) {
    const nn_layer *r = &m->rows[row];
    int as_is = r->type != NN_U8 && r->order == NN_HWC && !nn__input_is_scaled(r);
    /* a training batch is gathered in shuffled order, so it is copied even if nothing else is to do
     */
    if (as_is && !(need->training && m->micro > 1)) need->flags = NN_ALIAS;
}

/* Number, within the caller's data, of sample i of this turn. */
NN__INLINE size_t nn__sample_number(const nn_model *m, int32_t i) {
    uint32_t at = (uint32_t)(m->run.first + m->run.at + i);
    if (!m->run.period) return at;
    return nn__shuffled(nn__key(m->opts.seed, 0x5f17, m->run.epoch), at, m->run.period);
}

static void nn__input_forward(nn_model *m, const nn_cmd *c) {
    const nn_layer *row = &m->rows[c->row];
    int32_t ch = m->row[c->row].dim[2], i;
    size_t size = (size_t)m->in_size, area = size / (size_t)ch, e;
    float *y = nn__floats(m, c->y), scale = row->scale != 0 ? row->scale : 1.0f;
    int scaled = nn__input_is_scaled(row);
    int32_t n = m->run.n;
    if (!m->run.period && row->order == NN_HWC) { /* the samples lie in a row: as if one */
        size *= (size_t)n;
        n = 1;
    }
    for (i = 0; i < n; i++, y += size) {
        size_t at = nn__sample_number(m, i) * (size_t)m->in_size;
        const unsigned char *bytes = m->run.data + at;
        const float *floats = (const float *)(const void *)m->run.data + at;
        if (row->order == NN_CHW) {
            for (e = 0; e < size; e++)
                y[e % area * (size_t)ch + e / area] =
                    row->type == NN_U8 ? (float)bytes[e] : floats[e];
            if (!scaled) continue;
            NN__CALL(m, affine, y, y, NN_F32, size, ch, scale, row->mean, row->std);
        } else if (row->type != NN_U8 && !scaled) { /* ids are copied as their bits */
            NN_MEMCPY(y, floats, size * 4);
        } else {
            NN__CALL(m, affine, y, row->type == NN_U8 ? (const void *)bytes : floats, row->type,
                     size, ch, scale, row->mean, row->std);
        }
    }
}

#ifndef NN_NO_TRAIN
/* The caller's dx, in the caller's order: dx = dy scale / std. */
static void nn__input_backward(nn_model *m, const nn_cmd *c) {
    const nn_layer *row = &m->rows[c->row];
    size_t size = (size_t)m->in_size, ch = (size_t)m->row[c->row].dim[2], area = size / ch, e;
    float *dy = nn__floats(m, c->dy), *dx = m->run.dx, none[4] = { 0, 0, 0, 0 };
    int32_t i;
    for (i = 0; dx && i < m->run.n; i++, dy += size, dx += size) {
        for (e = 0; e < size; e++) dx[e] = dy[row->order == NN_CHW ? e % area * ch + e / area : e];
        if (!nn__input_is_scaled(row)) continue;
        for (e = 0; e < size; e++)
            NN__CALL(m, affine, dx + e, dx + e, NN_F32, 1, 1, row->scale != 0 ? row->scale : 1.0f,
                     none,
                     row->std + (ch > 4                 ? 0
                                 : row->order == NN_CHW ? e / area
                                                        : e % ch));
    }
}
#endif

NN__DEFINE_OP(input, "input", "", 0, 0, 0, NN__INPUT_ROLE, 0, nn__input_shape, nn__input_plan, NULL,
              NN__F(SHAPE) | NN__F(TYPE) | NN__F(ORDER) | NN__F(SCALE) | NN__F(MEAN) | NN__F(STD))

/* ---- dense: y[r][o] = act(sum_i x[r][i] w[o][i] + b[o]) ----
   r runs over samples and leading dimensions. */

static int nn__dense_shape(nn_shape *s) {
    const nn_row *in = s->in[0];
    if (s->row->units < 1) return nn_row_error(s, "units is missing");
    *s->out->dim = in->dim[0];
    s->out->dim[1] = in->dim[1];
    s->out->dim[2] = s->row->units;
    s->out->ndim = in->ndim;
    s->tensors = s->row->no_bias ? 1 : 2;
    s->dim[0][0] = s->dim[1][0] = s->row->units;
    s->dim[0][1] = in->dim[2];
    s->tensor_ndim[0] = 2;
    s->tensor_ndim[1] = 1;
    s->panels[0] = s->row->units >= NN__LANES;
    return 0;
}

static void nn__dense_plan(const nn_model *m, uint32_t row, nn_need *need) {
    if (m->row[row].flags & NN__TRAINS) need->flags |= NN_NEED_X;
    if (m->row[row].act) need->flags |= NN_NEED_Y;
}

static void nn__dense_forward(nn_model *m, const nn_cmd *c) {
    const nn_row *r = &m->row[c->row];
    const nn_tensor *w = nn__tensor(m, c, 0);
    nn__gemm g;
    nn__begin_gemm(&g);
    g.a = nn__floats(m, c->x);
    g.ar[0] = nn__in(m, c)->dim[2];
    g.ak[0] = 1;
    nn__set_weight(m, w, &g);
    if (r->tensors > 1) g.bias = nn__values(m, nn__tensor(m, c, 1));
    g.c = nn__floats(m, c->y);
    g.cr[0] = r->dim[2];
    g.rows[0] = (int32_t)nn__samples(m) * r->dim[0] * r->dim[1];
    g.cols = r->dim[2];
    g.n[0] = w->dim[1];
    if (g.cols < NN__LANES) {
        NN__CALL(m, lanes, &g);
    } else {
        g.relu = nn__relu_inside(m, c);
        NN__CALL(m, gemm, &g);
        if (g.relu) return;
    }
    nn__apply_act(m, c, g.c, (size_t)g.rows[0] * (size_t)g.cols);
}

#ifndef NN_NO_TRAIN
static void nn__dense_input_grad(const nn_model *m, const nn_cmd *c, int32_t rows) {
    const nn_tensor *w = nn__tensor(m, c, 0);
    int32_t in = w->dim[1], out = w->dim[0];
    nn__span dy = nn__span_of(nn__floats(m, c->dy), out, 0);
    nn__span dx = nn__span_of(nn__floats(m, c->dx), in, 0);
    nn__gemm g;
    if (in >= NN__LANES) {
        nn__linear_input_grad(m, w, NULL, dy, dx, rows, 1, 0);
        return;
    }
    g = nn__product(dy, dx, rows, 1, 0);
    g.b = nn__values(m, w);
    g.cols = in;
    g.n[0] = out;
    g.bc = 1;
    g.bk[0] = in;
    g.b_panels = w->layout == NN__PANELS;
    g.bk[1] = (ptrdiff_t)NN__LANES * in;
    NN__CALL(m, lanes, &g);
}

/* dw[o][i] += sum_r dy[r][o] x[r][i] for the k_count rows of the weight from k_first on. Panels:
   those are inputs, lanes go across outputs. [out,in] (fewer than 16 outputs): those are outputs.
 */
static void nn__dense_weight_grad(const nn_model *m, const nn_cmd *c, int32_t rows, int32_t k_first,
                                  int32_t k_count, int32_t col, int32_t cols, int add, float *dw) {
    const nn_tensor *w = nn__tensor(m, c, 0);
    const float *x = nn__floats(m, c->x), *dy = nn__floats(m, c->dy);
    int32_t in = w->dim[1], out = w->dim[0];
    nn__gemm g;
    nn__begin_gemm(&g);
    g.bc = g.ar[0] = 1;
    g.n[0] = rows;
    g.rows[0] = k_count;
    g.cols = cols;
    g.add = (uint8_t)add;
    g.c = dw;
    if (w->layout == NN__PANELS) {
        g.a = x + k_first;
        g.ak[0] = in;
        g.b = dy + col;
        g.bk[0] = out;
        g.cc = in;
        g.c_panels = 1;
    } else {
        g.a = dy + k_first;
        g.ak[0] = out;
        g.b = x + col;
        g.bk[0] = in;
        g.cr[0] = cols == in ? in : cols;
    }
    NN__CALL(m, gemm, &g);
}

/* The update without a gradient buffer: a tile of the gradient at a time, summed in the same order.
 */
static void nn__dense_fused_update(nn_model *m, const nn_cmd *c, int32_t rows) {
    enum { TILE = NN__ROOM > 1 ? NN__ROOM : 4 * NN__LANES };
    const nn_tensor *w = nn__tensor(m, c, 0);
    int32_t in = w->dim[1], out = w->dim[0], k, j, kn, jn;
    nn__step s = nn__step_of(m, w->row);
    NN__ALIGNED float tile[TILE];
    if (w->layout == NN__PANELS) {
        for (j = 0; j < out; j += NN__LANES)
            for (k = 0; k < in; k += TILE / NN__LANES) {
                jn = nn__min(NN__LANES, out - j);
                kn = nn__min(TILE / NN__LANES, in - k);
                nn__dense_weight_grad(m, c, rows, k, kn, j, jn, 0, tile);
                nn__update_part(m, w, &s, (uint32_t)(j * in + k * jn), (uint32_t)(kn * jn), tile);
            }
    } else {
        for (k = 0; k < out; k++)
            for (j = 0; j < in; j += TILE) {
                jn = nn__min(TILE, in - j);
                nn__dense_weight_grad(m, c, rows, k, 1, j, jn, 0, tile);
                nn__update_part(m, w, &s, (uint32_t)(k * in + j), (uint32_t)jn, tile);
            }
    }
}

static void nn__dense_backward(nn_model *m, const nn_cmd *c) {
    const nn_row *r = &m->row[c->row];
    const nn_tensor *w = nn__tensor(m, c, 0);
    int32_t rows = (int32_t)nn__samples(m) * r->dim[0] * r->dim[1];
    float *dy = nn__floats(m, c->dy);
    nn__apply_act_grad(m, c, dy, nn__floats(m, c->y), (size_t)rows * (size_t)r->dim[2]);
    if (c->dx != NN_AT_NONE) nn__dense_input_grad(m, c, rows);
    if (!(w->flags & NN__IS_TRAINED)) return;
    if (r->tensors > 1)
        NN__CALL(m, add_rows, nn__grad(m, c, 1), dy, (size_t)rows, r->dim[2], r->dim[2]);
    if (w->grad == NN_AT_NONE) {
        nn__dense_fused_update(m, c, rows);
    } else {
        int first = w->layout == NN__PANELS, add = !nn__take_stale(m, w);
        nn__dense_weight_grad(m, c, rows, 0, w->dim[first], 0, w->dim[1 - first], add,
                              nn__floats(m, w->grad));
    }
}
#endif

NN__DEFINE_OP(dense, "dense", "weight bias", 1, 1, 0, NN__PLAIN, 1, nn__dense_shape, nn__dense_plan,
              NULL,
              NN__F(UNITS) | NN__F(ACT) | NN__F(SLOPE) | NN__F(NO_BIAS) | NN__F(LR) |
                  NN__F(NO_DECAY))

/* ---- conv2d: y[oy][ox][o] = act(b[o] + sum over kh, kw, ci of
   x[oy sh + kh dh - pt][ox sw + kw dw - pl][ci] w[o][ci][kh][kw]) ----
   Taps outside the image are skipped, so the sum runs over (kh, kw, ci) of those inside. With a max
   pool inside, a block of windows at a time goes through scratch, and only the pooled map and the
   winners' numbers stay. */

typedef struct nn__conv {
    int32_t h, w, ci, oh, ow, co; /* input and output maps */
    int32_t kh, kw, sh, sw, dh, dw, top, left;
    int32_t groups, gi, go, k;        /* channels in and out of a group; kh * kw * gi */
    int32_t y0, y1, x0, x1;           /* outputs whose taps are all inside */
    int32_t ph, pw, psh, psw, py, px; /* pool inside: window, stride, pooled map; else 1 and map */
    int32_t gw;                       /* columns of the map's gradient that can differ from zero */
    int pooled, depthwise;            /* one channel in and out of every group */
} nn__conv;

#define NN__POOL_BLOCK 8 /* windows of a row that a fused pool takes at a time */

static int32_t nn__out_size(int64_t in, int64_t pads, int64_t kernel, int64_t stride,
                            int64_t dilation) {
    int64_t span = in + pads - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : (int32_t)(span / stride + 1);
}

/* The range of outputs [*lo, *hi) whose tap at offset (kernel position times dilation, less the
   padding) lies in an input of size in. */
static void nn__tap_range(int32_t in, int32_t out, int32_t stride, int32_t offset, int32_t *lo,
                          int32_t *hi) {
    *lo = offset < 0 ? (-offset + stride - 1) / stride : 0;
    *hi = in - 1 - offset < 0 ? 0 : (in - 1 - offset) / stride + 1;
    if (*hi > out) *hi = out;
}

/* The range of taps [*lo, *hi) that lie in the input, for the output whose first tap is at first.
 */
static void nn__valid_taps(int32_t in, int32_t kernel, int32_t dilation, int32_t first, int32_t *lo,
                           int32_t *hi) {
    *lo = first < 0 ? (-first + dilation - 1) / dilation : 0;
    *hi = in - 1 - first < 0 ? 0 : (in - 1 - first) / dilation + 1;
    if (*hi > kernel) *hi = kernel;
    if (*hi < *lo) *hi = *lo;
}

static nn__conv nn__conv_of(const nn_model *m, uint32_t i) {
    const nn_layer *row = &m->rows[i];
    const nn_row *in = &m->row[m->input[m->row[i].input]];
    nn__frame f = nn__frame_of(row, in->ndim);
    int32_t unused;
    nn__conv v;
    NN_MEMSET(&v, 0, sizeof v);
    v.h = in->dim[0], v.w = in->dim[1], v.ci = in->dim[2];
    v.kh = f.kernel[0], v.kw = f.kernel[1];
    v.sh = f.stride[0], v.sw = f.stride[1];
    v.dh = f.dilation[0], v.dw = f.dilation[1];
    v.top = f.before[0], v.left = f.before[1];
    v.oh = m->row[i].dim[0], v.ow = m->row[i].dim[1], v.co = m->row[i].dim[2];
    v.groups = nn__or1(row->groups);
    v.gi = v.ci / v.groups, v.go = v.co / v.groups;
    v.k = v.kh * v.kw * v.gi;
    v.depthwise = v.groups > 1 && v.gi == 1 && v.go == 1;
    nn__tap_range(v.h, v.oh, v.sh, -v.top, &v.y0, &unused);
    nn__tap_range(v.h, v.oh, v.sh, (v.kh - 1) * v.dh - v.top, &unused, &v.y1);
    nn__tap_range(v.w, v.ow, v.sw, -v.left, &v.x0, &unused);
    nn__tap_range(v.w, v.ow, v.sw, (v.kw - 1) * v.dw - v.left, &unused, &v.x1);
    v.ph = v.pw = v.psh = v.psw = 1;
    v.py = v.oh, v.px = v.ow;
    v.pooled = m->row[i].fused != i;
    if (v.pooled) {
        f = nn__frame_of(&m->rows[m->row[i].fused], in->ndim);
        v.ph = f.kernel[0], v.pw = f.kernel[1];
        v.psh = f.stride[0], v.psw = f.stride[1];
        v.py = m->row[m->row[i].fused].dim[0], v.px = m->row[m->row[i].fused].dim[1];
    }
    v.gw = (v.px - 1) * v.psw + v.pw;
    return v;
}

static int nn__window_fail(nn_shape *s, const nn__frame *f) {
    int32_t kh = f->kernel[0], kw = f->kernel[1];
    if (s->in[0]->ndim == 2)
        return NN__ROW_FAIL(s, "kernel %d spans %D steps, more than input %S has", (int)kw,
                            (int64_t)f->dilation[1] * (kw - 1) + 1, s->in[0]);
    if (f->dilation[0] == 1 && f->dilation[1] == 1)
        return NN__ROW_FAIL(s, "kernel %dx%d larger than input %S", (int)kh, (int)kw, s->in[0]);
    return NN__ROW_FAIL(s, "kernel %dx%d spans %Dx%D, larger than input %S", (int)kh, (int)kw,
                        (int64_t)f->dilation[0] * (kh - 1) + 1,
                        (int64_t)f->dilation[1] * (kw - 1) + 1, s->in[0]);
}

/* A windowed row of ndim 3 (images) or 2 (sequences) against its input. */
static int nn__window_shape(nn_shape *s, int ndim, int32_t channels) {
    const nn_layer *row = s->row;
    nn__frame f = nn__frame_of(row, ndim);
    int pool = row->op->role != NN__CONV_ROLE, k;
    int32_t size[2];
    if (s->in[0]->ndim != ndim)
        return nn_row_error(s, ndim == 3 ? "needs an image [H,W,C] as input"
                                         : "needs a sequence [T,C] as input");
    if (row->kernel[0] < 1) return nn_row_error(s, "kernel is missing");
    if (ndim == 2 && (row->kernel[1] || row->stride[1] || row->dilation[1] || row->pad[2] ||
                      row->pad[3]))
        return nn_row_error(s, "kernel, stride and dilation have one element, pad has two");
    if (row->stride[0] == 0 && row->stride[1] != 0)
        return nn_row_error(s, "stride has a second element but no first");
    if (row->dilation[0] == 0 && row->dilation[1] != 0)
        return nn_row_error(s, "dilation has a second element but no first");
    for (k = 0; k < 2; k++) {
        size[k] = nn__out_size(s->in[0]->dim[k], (int64_t)f.before[k] + f.after[k], f.kernel[k],
                               f.stride[k], f.dilation[k]);
        if (pool && (f.before[k] >= f.kernel[k] || f.after[k] >= f.kernel[k]))
            return NN__ROW_FAIL(s, "padding %d and %d must be smaller than the kernel's %d",
                                (int)f.before[k], (int)f.after[k], (int)f.kernel[k]);
        if (pool && (int64_t)f.kernel[0] * f.kernel[1] > 1 << 24)
            return nn_row_error(s, "the window has more than 2^24 elements");
        if (size[k] < 1) return nn__window_fail(s, &f);
    }
    nn__set_shape(s->out, size[0], size[1], channels);
    s->out->ndim = (uint8_t)ndim;
    return 0;
}

static int nn__conv_shape(nn_shape *s, int ndim) {
    const nn_layer *row = s->row;
    int32_t groups = nn__or1(row->groups), in = s->in[0]->dim[2];
    int err;
    if (row->units < 1) return nn_row_error(s, "units is missing");
    err = nn__window_shape(s, ndim, row->units);
    if (err) return err;
    if (in % groups || row->units % groups)
        return NN__ROW_FAIL(s, "%d input and %d output channels do not divide into %d groups",
                            (int)in, (int)row->units, (int)groups);
    s->tensors = row->no_bias ? 1 : 2;
    s->dim[0][0] = s->dim[1][0] = row->units;
    s->dim[0][1] = in / groups;
    s->dim[0][2] = row->kernel[0];
    s->dim[0][3] = nn__pair(row->kernel, 1, 1);
    if (ndim == 2) s->dim[0][3] = 0;
    s->tensor_ndim[0] = (uint8_t)(ndim + 1);
    s->tensor_ndim[1] = 1;
    s->panels[0] = 1;
    return 0;
}

static int nn__conv2d_shape(nn_shape *s) { return nn__conv_shape(s, 3); }

static int nn__conv1d_shape(nn_shape *s) { return nn__conv_shape(s, 2); }

/* Bits that number the elements of a pooling window. */
static int nn__index_bits(int32_t elements) {
    return elements <= 2 ? 1 : elements <= 4 ? 2 : elements <= 16 ? 4 : elements <= 256 ? 8 : 32;
}

NN__INLINE void nn__put_index(unsigned char *keep, int bits, size_t i, uint32_t v) {
    size_t at = i * (size_t)bits;
    if (bits == 32) {
        nn__put32(keep + at / 8, v);
    } else {
        uint32_t mask = ((1u << bits) - 1u) << at % 8;
        keep[at / 8] = (unsigned char)((keep[at / 8] & ~mask) | v << at % 8);
    }
}

NN__INLINE uint32_t nn__get_index(const unsigned char *keep, int bits, size_t i) {
    size_t at = i * (size_t)bits;
    if (bits == 32) return nn__get32(keep + at / 8);
    return (uint32_t)keep[at / 8] >> at % 8 & ((1u << bits) - 1u);
}

static int64_t nn__index_bytes(int32_t window, int64_t elements) {
    return (elements * nn__index_bits(window) + 7) / 8;
}

static void nn__conv_plan(const nn_model *m, uint32_t row, nn_need *need) {
    const nn_row *r = &m->row[row];
    nn__conv v = nn__conv_of(m, row);
    if (r->flags & NN__TRAINS) need->flags |= NN_NEED_X;
    if (r->act) need->flags |= NN_NEED_Y;
    if (m->opts.fuse_update && (r->flags & NN__TRAINS))
        need->tmp_back = 4 * nn__times(v.k, nn__min(v.go, NN__LANES));
    if (!v.pooled) return;
    need->tmp = 4 * (int64_t)v.ph * ((nn__min(v.px, NN__POOL_BLOCK) - 1) * v.psw + v.pw) *
                nn__min(v.go, NN__LANES);
    need->tmp_back += 4 * nn__times(nn__times(v.ph, v.ow), v.co);
    need->keep = nn__index_bytes(v.ph * v.pw, (int64_t)v.py * v.px * v.co);
}

/* A forward pass: the products of the map before the pool and the activation. */
typedef struct nn__conv_pass {
    nn__conv v;
    nn__gemm p;       /* what all of them have in common, for group 0 from channel 0 on */
    ptrdiff_t b1, b2; /* from tap to tap in the weight, along kw and kh */
    int merged;       /* the taps of a row are one run of k */
} nn__conv_pass;

static void nn__begin_conv(const nn_model *m, const nn_cmd *c, nn__conv_pass *f) {
    const nn_tensor *t = nn__tensor(m, c, 0);
    nn__conv *v = &f->v;
    nn__gemm *p = &f->p;
    int panels = t->layout == NN__PANELS;
    *v = nn__conv_of(m, c->row);
    nn__begin_gemm(p);
    p->ar[0] = (ptrdiff_t)v->sw * v->ci;
    p->ar[1] = (ptrdiff_t)v->sh * v->w * v->ci;
    p->ar[2] = (ptrdiff_t)v->h * v->w * v->ci;
    p->ak[0] = 1;
    p->ak[1] = (ptrdiff_t)v->dw * v->ci;
    p->ak[2] = (ptrdiff_t)v->dh * v->w * v->ci;
    p->relu = nn__relu_inside(m, c);
    if (m->row[c->row].tensors > 1) p->bias = nn__values(m, nn__tensor(m, c, 1));
    nn__set_weight(m, t, p);
    f->b1 = panels ? v->gi : 1;
    f->b2 = f->b1 * v->kw;
    p->bk[0] = panels ? 1 : (ptrdiff_t)v->kh * v->kw;
    p->bk[1] = f->b1;
    p->bk[2] = f->b2;
    f->merged = panels && v->groups == 1 && v->dw == 1;
}

/* Rows [y0, y1) and columns [x0, x1) of n samples' maps into y, which has steps per column, row and
   sample; cols channels from c0 on. Outputs with the same taps inside go together. */
static void nn__conv_rect(const nn_model *m, nn__conv_pass *f, const float *x, int32_t n,
                          int32_t c0, int32_t cols, int32_t y0, int32_t y1, int32_t x0, int32_t x1,
                          float *y, const ptrdiff_t step[3]) {
    const nn__conv *v = &f->v;
    nn__gemm p = f->p;
    int32_t oy, ox, next_y, next_x, k, kh0, kh1, kw0, kw1;
    int32_t g = v->depthwise ? 0 : c0 / v->go;
    p.cols = cols;
    if (p.bias) p.bias += c0;
    p.b += v->depthwise ? 0 : (ptrdiff_t)c0 * v->k;
    for (oy = y0; oy < y1; oy = next_y) {
        int32_t iy = oy * v->sh - v->top;
        next_y = oy >= v->y0 && oy < v->y1 ? nn__min(v->y1, y1) : oy + 1;
        if (next_y > oy + 1) kh0 = 0, kh1 = v->kh;
        else nn__valid_taps(v->h, v->kh, v->dh, iy, &kh0, &kh1);
        for (ox = x0; ox < x1; ox = next_x) {
            int32_t ix = ox * v->sw - v->left;
            next_x = ox >= v->x0 && ox < v->x1 ? nn__min(v->x1, x1) : ox + 1;
            if (next_x > ox + 1) kw0 = 0, kw1 = v->kw;
            else nn__valid_taps(v->w, v->kw, v->dw, ix, &kw0, &kw1);
            p.a = x + (((ptrdiff_t)iy + kh0 * v->dh) * v->w + ix + kw0 * v->dw) * v->ci +
                  (v->depthwise ? c0 : g * v->gi);
            p.c = y + (oy - y0) * step[1] + (ox - x0) * step[0];
            for (k = 0; k < 3; k++) p.ar[k] = f->p.ar[k], p.cr[k] = step[k];
            p.rows[0] = next_x - ox;
            p.rows[1] = next_y - oy;
            p.rows[2] = n;
            nn__merge_rows(&p);
            p.b0 = kh0 * f->b2 + kw0 * f->b1;
            p.n[0] = v->gi;
            p.n[1] = kw1 - kw0;
            p.n[2] = kh1 - kh0;
            if (f->merged) {
                p.n[0] *= p.n[1];
                p.n[1] = 1;
            }
            if (v->depthwise) NN__CALL(m, channels, &p);
            else NN__CALL(m, gemm, &p);
        }
    }
}

/* The blocks that a pool inside takes: cols channels, and how many windows of a row. */
static int32_t nn__pool_windows(const nn__conv *v, int32_t *cols) {
    int32_t room;
    *cols = nn__min(v->go, NN__ROOM > 1 ? 2 * NN__LANES : NN__LANES);
    room = NN__ROOM / *cols / v->ph; /* columns of the map */
    if (room >= v->pw) return nn__min(v->px, (room - v->pw) / v->psw + 1);
    *cols = nn__min(v->go, NN__LANES);
    return nn__min(v->px, NN__POOL_BLOCK);
}

static void nn__conv_pooled(const nn_model *m, nn__conv_pass *f, const nn_cmd *c, const float *x,
                            float *y, unsigned char *keep) {
    const nn__conv *v = &f->v;
    NN__ALIGNED float room[NN__ROOM];
    float *map = nn__floats(m, c->tmp);
    int32_t cols, c0, py, px, windows = nn__pool_windows(v, &cols);
    nn__pool p;
    NN_MEMSET(&p, 0, sizeof p);
    if (v->ph * ((windows - 1) * v->psw + v->pw) * cols <= NN__ROOM) map = room;
    p.x = map;
    p.keep = keep;
    p.bits = nn__index_bits(v->ph * v->pw);
    p.h = v->ph;
    p.w = p.kw = v->pw;
    p.y_step = v->co;
    for (c0 = 0; c0 < v->co; c0 += p.channels) {
        p.channels = nn__min(cols, v->go - c0 % v->go);
        p.column = p.channels;
        p.step = (ptrdiff_t)v->psw * p.channels;
        for (py = 0; py < v->py; py++)
            for (px = 0; px < v->px; px += windows) {
                ptrdiff_t step[3];
                int32_t width;
                p.windows = nn__min(windows, v->px - px);
                width = (p.windows - 1) * v->psw + v->pw;
                p.row = step[1] = (ptrdiff_t)width * p.channels;
                step[0] = p.channels;
                step[2] = 0;
                p.index = ((size_t)py * (size_t)v->px + (size_t)px) * (size_t)v->co + (size_t)c0;
                p.y = y + p.index;
                nn__conv_rect(m, f, x, 1, c0, p.channels, py * v->psh, py * v->psh + v->ph,
                              px * v->psw, px * v->psw + width, map, step);
                if (!f->p.relu) nn__apply_act(m, c, map, (size_t)(v->ph * p.row));
                NN__CALL(m, maxpool, &p);
            }
    }
}

/* Depthwise: 64 channels at a time, their weights [k][channel] on the stack. Returns whether that
   fits; if not, every channel is a product of its own. */
#define NN__DEPTH 64
static int nn__is_wide_depthwise(const nn__conv *v) {
    return v->depthwise && v->k <= NN__ROOM / NN__DEPTH;
}

static void nn__depthwise_weights(const nn__conv *v, const float *w, int32_t c0, int32_t cols,
                                  float *room) {
    int32_t k, j;
    for (j = 0; j < cols; j++)
        for (k = 0; k < v->k; k++) room[k * NN__DEPTH + j] = w[(ptrdiff_t)(c0 + j) * v->k + k];
}

static void nn__conv_forward(nn_model *m, const nn_cmd *c) {
    nn__conv_pass f;
    const nn__conv *v = &f.v;
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y);
    NN__ALIGNED float room[NN__ROOM];
    unsigned char *keep = nn__at(m, c->keep);
    size_t s, map;
    ptrdiff_t step[3];
    int32_t c0, cols;
    nn__begin_conv(m, c, &f);
    map = (size_t)v->py * (size_t)v->px * (size_t)v->co;
    f.v.depthwise = nn__is_wide_depthwise(v) && !v->pooled;
    for (s = 0; v->pooled && s < nn__samples(m); s++) {
        nn__conv_pooled(m, &f, c, x, y, keep);
        x += (size_t)v->h * (size_t)v->w * (size_t)v->ci;
        y += map;
        if (keep) keep += nn__index_bytes(v->ph * v->pw, (int64_t)map);
    }
    if (v->pooled) return;
    step[0] = v->co;
    step[1] = (ptrdiff_t)v->ow * v->co;
    step[2] = (ptrdiff_t)map;
    cols = v->depthwise ? NN__DEPTH : v->go;
    for (c0 = 0; c0 < v->co; c0 += cols) {
        cols = nn__min(cols, v->co - c0);
        if (v->depthwise) {
            nn__depthwise_weights(v, nn__values(m, nn__tensor(m, c, 0)), c0, cols, room);
            f.p.b = room;
            f.p.bk[1] = f.b1 = NN__DEPTH;
            f.p.bk[2] = f.b2 = (ptrdiff_t)NN__DEPTH * v->kw;
            f.p.b_panels = 0;
        }
        nn__conv_rect(m, &f, x, (int32_t)nn__samples(m), c0, cols, 0, v->oh, 0, v->ow, y + c0,
                      step);
    }
    if (!f.p.relu || v->depthwise) nn__apply_act(m, c, y, nn__samples(m) * map);
}

#ifndef NN_NO_TRAIN
/* A part of the weights: groups [g0, g1), and of each the outputs [c0, c0 + cols). */
typedef struct nn__conv_part {
    int32_t g0, g1, c0, cols;
    float *dw; /* of its first panel */
} nn__conv_part;

/* dw[o][ci][kh][kw] += sum over n samples, rows [oy0, oy1) and columns of dz[oy][ox][o] x[..][ci];
   dz begins at row oy0. */
static void nn__conv_weight_grad(const nn_model *m, const nn__conv *v, const nn__conv_part *part,
                                 const float *x, const float *dz, int32_t n, int32_t oy0,
                                 int32_t oy1) {
    int whole_rows = v->x0 == 0 && v->x1 == v->ow && v->dw == 1 && v->groups == 1;
    int32_t kh, kw, g, ylo, yhi, xlo, xhi;
    nn__gemm p;
    nn__begin_gemm(&p);
    p.ar[0] = 1;
    p.ak[0] = (ptrdiff_t)v->sw * v->ci;
    p.ak[1] = (ptrdiff_t)v->sh * v->w * v->ci;
    p.ak[2] = (ptrdiff_t)v->h * v->w * v->ci;
    p.bc = 1;
    p.bk[0] = v->co;
    p.bk[1] = (ptrdiff_t)v->gw * v->co;
    p.bk[2] = (ptrdiff_t)v->oh * v->gw * v->co;
    p.cc = v->k;
    p.c_panels = 1;
    p.rows[0] = whole_rows ? v->kw * v->gi : v->gi;
    p.cols = part->cols;
    p.n[2] = n;
    p.add = 1;
    for (g = part->g0; g < part->g1; g++)
        for (kh = 0; kh < v->kh; kh++) {
            nn__tap_range(v->h, v->oh, v->sh, kh * v->dh - v->top, &ylo, &yhi);
            ylo = nn__max(ylo, oy0);
            yhi = nn__min(yhi, oy1);
            for (kw = 0; kw < (whole_rows ? 1 : v->kw) && ylo < yhi; kw++) {
                nn__tap_range(v->w, v->gw, v->sw, kw * v->dw - v->left, &xlo, &xhi);
                if (xlo >= xhi) continue;
                p.a = x + g * v->gi +
                      (((ptrdiff_t)ylo * v->sh + kh * v->dh - v->top) * v->w + xlo * v->sw +
                       kw * v->dw - v->left) *
                          v->ci;
                p.b = dz + ((ptrdiff_t)(ylo - oy0) * v->gw + xlo) * v->co + g * v->go + part->c0;
                p.c = part->dw + (ptrdiff_t)(g - part->g0) * v->go * v->k;
                p.c0 = ((ptrdiff_t)kh * v->kw + kw) * v->gi;
                p.n[0] = xhi - xlo;
                p.n[1] = yhi - ylo;
                NN__CALL(m, gemm, &p);
            }
        }
}

/* The weights of a tap, or of those of a group of taps, as B of the gradient of cols input channels
   from j0 on: [k = o][j = ci]. packed: where they lie as panels [o][16]; NULL: as they are. */
typedef struct nn__taps {
    int32_t g, j0, cols, first, end; /* taps [first, end), numbered kh * kw + kw */
    const float *packed;
} nn__taps;

static void nn__pack_tap(const nn_model *m, const nn__conv *v, const nn_tensor *t,
                         const nn__taps *k, int32_t tap, float *to) {
    int32_t whole = t->layout == NN__PANELS ? v->go & ~15 : 0, rest = v->go - whole, j, n[3];
    const float *w = nn__values(m, t) + (ptrdiff_t)k->g * v->go * v->k;
    for (j = 0; j < k->cols; j += NN__LANES, to += (ptrdiff_t)NN__LANES * v->go) {
        int32_t count = nn__min(NN__LANES, k->cols - j), at = tap * v->gi + k->j0 + j;
        ptrdiff_t bk[3];
        n[0] = NN__LANES, n[1] = whole / NN__LANES, n[2] = 1;
        bk[0] = 1, bk[1] = (ptrdiff_t)NN__LANES * v->k, bk[2] = 0;
        NN__CALL(m, pack, to, w + (ptrdiff_t)at * NN__LANES, n, bk, NN__LANES, count);
        n[0] = rest, n[1] = 1;
        if (t->layout == NN__PANELS) {
            NN__CALL(m, pack, to + (ptrdiff_t)whole * NN__LANES,
                     w + (ptrdiff_t)whole * v->k + (ptrdiff_t)at * rest, n, bk, rest, count);
        } else {
            bk[0] = v->k;
            NN__CALL(m, pack, to, w + (ptrdiff_t)(k->j0 + j) * v->kh * v->kw + tap, n, bk,
                     (ptrdiff_t)v->kh * v->kw, count);
        }
    }
}

/* p: a product with everything set but B: dx += dz w for a tap. */
static void nn__conv_input_tap(const nn_model *m, const nn__conv *v, const nn_tensor *t,
                               const nn__taps *k, int32_t tap, nn__gemm *p) {
    int32_t whole = t->layout == NN__PANELS ? v->go & ~15 : v->go, rest = v->go - whole;
    const float *w = nn__values(m, t) + (ptrdiff_t)k->g * v->go * v->k;
    p->n[0] = v->go;
    p->n[1] = 1;
    if (k->packed) {
        int32_t panels = (k->cols + NN__LANES - 1) / NN__LANES;
        p->b = k->packed + (ptrdiff_t)(tap - k->first) * panels * NN__LANES * v->go;
        p->bc = v->go;
        p->bj = 1;
        p->bk[0] = NN__LANES;
        NN__CALL(m, gemm, p);
        return;
    }
    if (t->layout == NN__CANONICAL) {
        p->b = w + tap + (ptrdiff_t)k->j0 * v->kh * v->kw;
        p->bc = p->bj = (ptrdiff_t)v->kh * v->kw;
        p->bk[0] = v->k;
        NN__CALL(m, gemm, p);
        return;
    }
    if (whole) {
        p->b = w + ((ptrdiff_t)tap * v->gi + k->j0) * NN__LANES;
        p->bc = p->bj = NN__LANES;
        p->bk[0] = 1;
        p->bk[1] = (ptrdiff_t)NN__LANES * v->k;
        p->ak[1] = NN__LANES;
        p->n[0] = NN__LANES;
        p->n[1] = whole / NN__LANES;
        NN__CALL(m, gemm, p);
    }
    if (rest) {
        p->a += whole;
        p->b = w + (ptrdiff_t)whole * v->k + ((ptrdiff_t)tap * v->gi + k->j0) * rest;
        p->bc = p->bj = rest;
        p->bk[0] = 1;
        p->n[0] = rest;
        p->n[1] = 1;
        NN__CALL(m, gemm, p);
    }
}

/* dx += those taps of rows [oy0, oy1) of dz of n samples. For every input element the sum is in the
   order (kh, kw, o). */
static void nn__conv_input_grad(const nn_model *m, const nn__conv *v, const nn_tensor *t,
                                const nn__taps *k, const float *dz, int32_t n, int32_t oy0,
                                int32_t oy1, float *dx) {
    int32_t tap, ylo, yhi, xlo, xhi;
    for (tap = k->first; tap < k->end; tap++) {
        int32_t dy = tap / v->kw * v->dh - v->top, dx0 = tap % v->kw * v->dw - v->left;
        nn__gemm p;
        nn__tap_range(v->h, v->oh, v->sh, dy, &ylo, &yhi);
        nn__tap_range(v->w, v->gw, v->sw, dx0, &xlo, &xhi);
        ylo = nn__max(ylo, oy0);
        yhi = nn__min(yhi, oy1);
        if (xlo >= xhi || ylo >= yhi) continue;
        nn__begin_gemm(&p);
        p.a = dz + ((ptrdiff_t)(ylo - oy0) * v->gw + xlo) * v->co + k->g * v->go;
        p.ar[0] = v->co;
        p.ar[1] = (ptrdiff_t)v->gw * v->co;
        p.ar[2] = (ptrdiff_t)v->oh * v->gw * v->co;
        p.ak[0] = 1;
        p.c = dx + (((ptrdiff_t)ylo * v->sh + dy) * v->w + (ptrdiff_t)xlo * v->sw + dx0) * v->ci +
              k->g * v->gi + k->j0;
        p.cr[0] = (ptrdiff_t)v->sw * v->ci;
        p.cr[1] = (ptrdiff_t)v->sh * v->w * v->ci;
        p.cr[2] = (ptrdiff_t)v->h * v->w * v->ci;
        p.rows[0] = xhi - xlo;
        p.rows[1] = yhi - ylo;
        p.rows[2] = n;
        p.cols = k->cols;
        p.add = 1;
        nn__merge_rows(&p);
        if (v->depthwise) {
            p.b = k->packed + (ptrdiff_t)tap * NN__DEPTH;
            NN__CALL(m, channels, &p);
        } else {
            nn__conv_input_tap(m, v, t, k, tap, &p);
        }
    }
}

/* What backward walks over: strips of rows of the map before the pool, a sample at a time, or the
   whole maps of all samples. */
typedef struct nn__conv_strips {
    nn__conv v;
    float *strip; /* where a pooled map's gradient is unpooled; NULL: dy is the maps' */
    const float *dy;
    const unsigned char *keep;
    int32_t samples, count, n; /* visits: samples x count strips, of n samples' rows */
    int32_t many;              /* rows of windows in a strip */
    size_t map, in, keep_size; /* floats of a sample's dy and x, bytes of its winners */
} nn__conv_strips;

/* A strip of rows [y0, y1) of the gradient of the map before the pool: zero but at the winners. */
typedef struct nn__conv_strip {
    const float *dz;
    int32_t y0, y1;
} nn__conv_strip;

static nn__conv_strip nn__strip(const nn_model *m, const nn__conv_strips *w, int32_t sample,
                                int32_t i) {
    const nn__conv *v = &w->v;
    int32_t py = i * w->many, end = nn__min(v->py, py + w->many);
    nn__conv_strip s;
    nn__pool p;
    s.dz = w->strip ? w->strip : w->dy;
    s.y0 = py * v->psh;
    s.y1 = (end - 1) * v->psh + v->ph;
    if (!w->strip) return s;
    if (v->psw > v->pw || v->psh > v->ph)
        NN_MEMSET(w->strip, 0, (size_t)(s.y1 - s.y0) * (size_t)v->gw * (size_t)v->co * 4);
    NN_MEMSET(&p, 0, sizeof p);
    p.keep = (unsigned char *)(uintptr_t)w->keep + (size_t)sample * w->keep_size;
    p.y_step = p.column = p.channels = v->co;
    p.step = (ptrdiff_t)v->psw * v->co;
    p.row = (ptrdiff_t)v->gw * v->co;
    p.windows = v->px;
    p.h = v->ph;
    p.w = p.kw = v->pw;
    p.bits = nn__index_bits(v->ph * v->pw);
    for (; py < end; py++) {
        p.index = (size_t)py * (size_t)v->px * (size_t)v->co;
        p.y = (float *)(uintptr_t)(w->dy + (size_t)sample * w->map + p.index);
        p.dx = w->strip + (py * v->psh - s.y0) * p.row;
        NN__CALL(m, unpool, &p);
    }
    return s;
}

/* Sums over positions: samples and strips in rising order. */
static void nn__conv_weight_pass(const nn_model *m, const nn__conv_strips *w,
                                 const nn__conv_part *part, const float *x, float *dbias) {
    int32_t s, i;
    for (s = 0; s < w->samples; s++)
        for (i = 0; i < w->count; i++) {
            nn__conv_strip z = nn__strip(m, w, s, i);
            nn__conv_weight_grad(m, &w->v, part, x + (size_t)s * w->in, z.dz, w->n, z.y0, z.y1);
            if (dbias)
                NN__CALL(m, add_rows, dbias, z.dz, (size_t)w->n * (size_t)((z.y1 - z.y0) * w->v.gw),
                         w->v.co, w->v.co);
        }
}

static void nn__conv_input_pass(const nn_model *m, const nn__conv_strips *w, const nn_tensor *t,
                                const nn__taps *k, float *dx) {
    int32_t s, i;
    for (s = 0; s < w->samples; s++)
        for (i = w->count; i-- > 0;) { /* falling rows: sums over kh rise */
            nn__conv_strip z = nn__strip(m, w, s, i);
            nn__conv_input_grad(m, &w->v, t, k, z.dz, w->n, z.y0, z.y1, dx + (size_t)s * w->in);
        }
}

/* As many channels and then taps at a time as fit into the room for their weights. */
static void nn__conv_input_passes(const nn_model *m, const nn__conv_strips *w, const nn_tensor *t,
                                  float *dx) {
    const nn__conv *v = &w->v;
    int32_t panels = NN__ROOM / NN__LANES / v->go, taps = v->kh * v->kw, some = taps, tap, cols;
    NN__ALIGNED float room[NN__ROOM];
    nn__taps k;
    cols = panels > 0 ? nn__min(v->gi, panels * NN__LANES) : v->gi;
    if (panels > 0) some = nn__max(1, panels / ((cols + NN__LANES - 1) / NN__LANES));
    k.packed = panels > 0 ? room : NULL;
    for (k.g = 0; k.g < v->groups; k.g++)
        for (k.j0 = 0; k.j0 < v->gi; k.j0 += cols)
            for (k.first = 0; k.first < taps; k.first = k.end) {
                k.end = nn__min(taps, k.first + some);
                k.cols = nn__min(cols, v->gi - k.j0);
                for (tap = k.first; k.packed && tap < k.end; tap++)
                    nn__pack_tap(m, v, t, &k, tap,
                                 room + (ptrdiff_t)(tap - k.first) * NN__LANES * v->go *
                                            ((k.cols + NN__LANES - 1) / NN__LANES));
                nn__conv_input_pass(m, w, t, &k, dx);
            }
}

/* Both gradients of 64 channels at a time. */
static void nn__depthwise_backward(const nn_model *m, const nn__conv_strips *w, const nn_tensor *t,
                                   const float *x, float *dx, float *dw) {
    const nn__conv *v = &w->v;
    NN__ALIGNED float room[NN__ROOM];
    int32_t c0, j, tap, ylo, yhi, xlo, xhi;
    for (c0 = 0; c0 < v->co; c0 += NN__DEPTH) {
        int32_t cols = nn__min(NN__DEPTH, v->co - c0);
        nn__taps k;
        k.g = 0, k.j0 = 0, k.cols = cols, k.first = 0, k.end = v->k, k.packed = room;
        if (dx) {
            nn__depthwise_weights(v, nn__values(m, t), c0, cols, room);
            nn__conv_input_grad(m, v, t, &k, w->dy + c0, w->n, 0, v->oh, dx + c0);
        }
        for (tap = 0; dw && tap < v->k; tap++) {
            int32_t dy = tap / v->kw * v->dh - v->top, dx0 = tap % v->kw * v->dw - v->left;
            nn__gemm p;
            nn__tap_range(v->h, v->oh, v->sh, dy, &ylo, &yhi);
            nn__tap_range(v->w, v->gw, v->sw, dx0, &xlo, &xhi);
            if (ylo >= yhi || xlo >= xhi) continue;
            nn__begin_gemm(&p);
            p.a = x + (((ptrdiff_t)ylo * v->sh + dy) * v->w + xlo * v->sw + dx0) * v->ci + c0;
            p.ak[0] = (ptrdiff_t)v->sw * v->ci;
            p.ak[1] = (ptrdiff_t)v->sh * v->w * v->ci;
            p.ak[2] = (ptrdiff_t)w->in;
            p.b = w->dy + ((ptrdiff_t)ylo * v->gw + xlo) * v->co + c0;
            p.bk[0] = v->co;
            p.bk[1] = (ptrdiff_t)v->gw * v->co;
            p.bk[2] = (ptrdiff_t)w->map;
            p.n[0] = xhi - xlo;
            p.n[1] = yhi - ylo;
            p.n[2] = w->n;
            p.cols = cols;
            p.c = room;
            p.add = 1;
            for (j = 0; j < cols; j++) room[j] = dw[(ptrdiff_t)(c0 + j) * v->k + tap];
            NN__CALL(m, channels, &p);
            for (j = 0; j < cols; j++) dw[(ptrdiff_t)(c0 + j) * v->k + tap] = room[j];
        }
    }
}

/* The update without a gradient buffer: a panel of the gradient at a time, in the same order. */
static void nn__conv_fused_update(nn_model *m, const nn_cmd *c, const nn__conv_strips *w,
                                  const float *x, float *dbias) {
    const nn_tensor *t = nn__tensor(m, c, 0);
    float *panel = nn__floats(m, c->tmp) + (w->strip ? w->v.ph * w->v.ow * w->v.co : 0);
    nn__step s = nn__step_of(m, t->row);
    nn__conv_part part;
    part.dw = panel;
    for (part.g0 = 0; part.g0 < w->v.groups; part.g0++)
        for (part.c0 = 0; part.c0 < w->v.go; part.c0 += NN__LANES) {
            uint32_t first = (uint32_t)((part.g0 * w->v.go + part.c0) * w->v.k), count;
            part.g1 = part.g0 + 1;
            part.cols = nn__min(NN__LANES, w->v.go - part.c0);
            count = (uint32_t)(part.cols * w->v.k);
            NN_MEMSET(panel, 0, 4 * (size_t)count);
            nn__conv_weight_pass(m, w, &part, x, first ? NULL : dbias);
            nn__update_part(m, t, &s, first, count, panel);
        }
}

static void nn__conv_backward(nn_model *m, const nn_cmd *c) {
    const nn_tensor *t = nn__tensor(m, c, 0);
    const float *x = nn__floats(m, c->x);
    float *dy = nn__floats(m, c->dy), *dx = nn__floats(m, c->dx), *dw = NULL, *dbias = NULL;
    int trains = (t->flags & NN__IS_TRAINED) != 0, wide;
    NN__ALIGNED float room[NN__ROOM];
    nn__conv_strips w;
    w.v = nn__conv_of(m, c->row);
    w.strip = w.v.pooled ? nn__floats(m, c->tmp) : NULL;
    w.dy = dy;
    w.keep = nn__at(m, c->keep);
    w.samples = w.v.pooled ? (int32_t)nn__samples(m) : 1;
    w.n = w.v.pooled ? 1 : (int32_t)nn__samples(m);
    w.many = w.v.py;
    if (w.v.pooled) {
        int32_t rows = NN__ROOM / (w.v.gw * w.v.co); /* of the map, that the room takes */
        w.many = rows < w.v.ph ? 1 : nn__min(w.v.py, (rows - w.v.ph) / w.v.psh + 1);
        if (rows >= w.v.ph) w.strip = room;
    }
    w.count = (w.v.py + w.many - 1) / w.many;
    w.map = (size_t)w.v.py * (size_t)w.v.px * (size_t)w.v.co;
    w.in = (size_t)w.v.h * (size_t)w.v.w * (size_t)w.v.ci;
    w.keep_size = (size_t)nn__index_bytes(w.v.ph * w.v.pw, (int64_t)w.map);
    wide = nn__is_wide_depthwise(&w.v) && !w.v.pooled && (!trains || t->grad != NN_AT_NONE);
    w.v.depthwise = wide;
    nn__apply_act_grad(m, c, dy, nn__floats(m, c->y), nn__samples(m) * w.map);
    if (dx) NN_MEMSET(dx, 0, nn__samples(m) * w.in * 4);
    if (trains && t->grad != NN_AT_NONE) dw = nn__grad(m, c, 0);
    if (trains && m->row[c->row].tensors > 1) dbias = nn__grad(m, c, 1);
    if (wide) {
        nn__depthwise_backward(m, &w, t, x, dx, dw);
        if (dbias)
            NN__CALL(m, add_rows, dbias, dy, nn__samples(m) * (w.map / (size_t)w.v.co), w.v.co,
                     w.v.co);
        return;
    }
    if (dx) nn__conv_input_passes(m, &w, t, dx);
    if (!trains) return;
    if (!dw) {
        nn__conv_fused_update(m, c, &w, x, dbias);
    } else {
        nn__conv_part all = { 0, 0, 0, 0, NULL };
        all.g1 = w.v.groups;
        all.cols = w.v.go;
        all.dw = dw;
        nn__conv_weight_pass(m, &w, &all, x, dbias);
    }
}
#endif

#define NN__CONV_FIELDS                                                                    \
    (NN__F(UNITS) | NN__F(ACT) | NN__F(SLOPE) | NN__F(KERNEL) | NN__F(STRIDE) | NN__F(DILATION) | \
     NN__F(PAD) | NN__F(GROUPS) | NN__F(NO_BIAS) | NN__F(LR) | NN__F(NO_DECAY))

NN__DEFINE_OP_AS(conv2d, conv, "conv", "weight bias", 1, 1, 0, NN__CONV_ROLE, 1, nn__conv2d_shape,
                 nn__conv_plan, NULL, NN__CONV_FIELDS)
NN__DEFINE_OP_AS(conv1d, conv, "conv", "weight bias", 1, 1, 0, NN__CONV_ROLE, 1, nn__conv1d_shape,
                 nn__conv_plan, NULL, NN__CONV_FIELDS)

/* ---- maxpool2d, maxpool1d: the largest of each window ----
   Padding never wins; ties go to the first in row order. */

static int nn__pool2d_shape(nn_shape *s) { return nn__window_shape(s, 3, s->in[0]->dim[2]); }

static int nn__pool1d_shape(nn_shape *s) { return nn__window_shape(s, 2, s->in[0]->dim[2]); }

static void nn__maxpool_plan(const nn_model *m, uint32_t row, nn_need *need) {
    nn__frame f = nn__frame_of(&m->rows[row], m->row[row].ndim);
    need->keep = nn__index_bytes(f.kernel[0] * f.kernel[1], nn__elements(&m->row[row]));
}

/* A pool's window: rows and columns of the input inside it, for output (oy, ox). */
typedef struct nn__window {
    int32_t y0, y1, x0, x1; /* inside the image */
    int32_t top, left;      /* of the window, in or outside of it */
    int32_t kh, kw;
} nn__window;

static nn__window nn__window_at(const nn__frame *f, const nn_row *in, int32_t oy, int32_t ox) {
    nn__window w;
    w.kh = f->kernel[0];
    w.kw = f->kernel[1];
    w.top = oy * f->stride[0] - f->before[0];
    w.left = ox * f->stride[1] - f->before[1];
    w.y0 = nn__max(w.top, 0);
    w.x0 = nn__max(w.left, 0);
    w.y1 = nn__min(w.top + w.kh, in->dim[0]);
    w.x1 = nn__min(w.left + w.kw, in->dim[1]);
    return w;
}

static void nn__maxpool_forward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c), *r = &m->row[c->row];
    nn__frame f = nn__frame_of(&m->rows[c->row], r->ndim);
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y);
    unsigned char *keep = nn__at(m, c->keep);
    int32_t oy, ox, ch = in->dim[2];
    size_t s;
    nn__pool p;
    NN_MEMSET(&p, 0, sizeof p);
    p.windows = 1;
    p.column = p.channels = ch;
    p.row = (ptrdiff_t)in->dim[1] * ch;
    for (s = 0; s < nn__samples(m); s++, x += nn__elements(in)) {
        p.index = 0;
        for (oy = 0; oy < r->dim[0]; oy++)
            for (ox = 0; ox < r->dim[1]; ox++, y += ch) {
                nn__window w = nn__window_at(&f, in, oy, ox);
                p.x = x + ((ptrdiff_t)w.y0 * in->dim[1] + w.x0) * ch;
                p.y = y;
                p.keep = keep;
                p.h = w.y1 - w.y0;
                p.w = w.x1 - w.x0;
                p.kw = w.kw;
                p.first = (w.y0 - w.top) * w.kw + w.x0 - w.left;
                p.bits = nn__index_bits(w.kh * w.kw);
                NN__CALL(m, maxpool, &p);
                p.index += (size_t)ch;
            }
        if (keep) keep += nn__index_bytes(f.kernel[0] * f.kernel[1], nn__elements(r));
    }
}

#ifndef NN_NO_TRAIN
static void nn__maxpool_backward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c), *r = &m->row[c->row];
    nn__frame f = nn__frame_of(&m->rows[c->row], r->ndim);
    const float *dy = nn__floats(m, c->dy);
    float *dx = nn__floats(m, c->dx);
    const unsigned char *keep = nn__at(m, c->keep);
    int32_t oy, ox, j, ch = in->dim[2];
    size_t s;
    NN_MEMSET(dx, 0, nn__samples(m) * (size_t)nn__elements(in) * 4);
    for (s = 0; s < nn__samples(m); s++, dx += nn__elements(in)) {
        size_t index = 0;
        for (oy = 0; oy < r->dim[0]; oy++)
            for (ox = 0; ox < r->dim[1]; ox++, dy += ch) {
                nn__window w = nn__window_at(&f, in, oy, ox);
                int bits = nn__index_bits(w.kh * w.kw);
                for (j = 0; j < ch; j++, index++) {
                    int32_t winner = (int32_t)nn__get_index(keep, bits, index);
                    ptrdiff_t iy = w.top + winner / w.kw, ix = w.left + winner % w.kw;
                    dx[(iy * in->dim[1] + ix) * ch + j] += dy[j];
                }
            }
        keep += nn__index_bytes(f.kernel[0] * f.kernel[1], nn__elements(r));
    }
}
#endif

NN__DEFINE_OP_AS(maxpool2d, maxpool, "pool", "", 1, 1, 0, NN__POOL_ROLE, 0, nn__pool2d_shape,
                 nn__maxpool_plan, NULL, NN__F(KERNEL) | NN__F(STRIDE) | NN__F(PAD))
NN__DEFINE_OP_AS(maxpool1d, maxpool, "pool", "", 1, 1, 0, NN__POOL_ROLE, 0, nn__pool1d_shape,
                 nn__maxpool_plan, NULL, NN__F(KERNEL) | NN__F(STRIDE) | NN__F(PAD))

/* ---- avgpool2d, avgpool1d: mean of each window ----
   Over its elements inside the image or, with count_pad, kh * kw. */

static void nn__no_plan(const nn_model *m, uint32_t row, nn_need *need) {
    (void)m, (void)row, (void)need;
}

static float nn__window_count(const nn_layer *row, const nn__window *w) {
    return (float)(row->count_pad ? w->kh * w->kw : (w->y1 - w->y0) * (w->x1 - w->x0));
}

static void nn__avgpool_forward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c), *r = &m->row[c->row];
    nn__frame f = nn__frame_of(&m->rows[c->row], r->ndim);
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y);
    int32_t oy, ox, iy, ch = in->dim[2];
    size_t s;
    for (s = 0; s < nn__samples(m); s++, x += nn__elements(in))
        for (oy = 0; oy < r->dim[0]; oy++)
            for (ox = 0; ox < r->dim[1]; ox++, y += ch) {
                nn__window w = nn__window_at(&f, in, oy, ox);
                float count = nn__window_count(&m->rows[c->row], &w);
                NN_MEMSET(y, 0, 4 * (size_t)ch);
                for (iy = w.y0; iy < w.y1; iy++)
                    NN__CALL(m, add_rows, y, x + ((ptrdiff_t)iy * in->dim[1] + w.x0) * ch,
                             (size_t)(w.x1 - w.x0), ch, ch);
                NN__CALL(m, divide, y, y, count, (size_t)ch);
            }
}

#ifndef NN_NO_TRAIN
static void nn__avgpool_backward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c), *r = &m->row[c->row];
    nn__frame f = nn__frame_of(&m->rows[c->row], r->ndim);
    const float *dy = nn__floats(m, c->dy);
    float *dx = nn__floats(m, c->dx);
    int32_t oy, ox, iy, ix, j, ch = in->dim[2];
    size_t s;
    NN_MEMSET(dx, 0, nn__samples(m) * (size_t)nn__elements(in) * 4);
    for (s = 0; s < nn__samples(m); s++, dx += nn__elements(in))
        for (oy = 0; oy < r->dim[0]; oy++)
            for (ox = 0; ox < r->dim[1]; ox++, dy += ch) {
                nn__window w = nn__window_at(&f, in, oy, ox);
                float count = nn__window_count(&m->rows[c->row], &w);
                for (j = 0; j < ch; j++) {
                    float share = dy[j] / count;
                    for (iy = w.y0; iy < w.y1; iy++)
                        for (ix = w.x0; ix < w.x1; ix++)
                            dx[((ptrdiff_t)iy * in->dim[1] + ix) * ch + j] += share;
                }
            }
}
#endif

NN__DEFINE_OP_AS(avgpool2d, avgpool, "avgpool", "", 1, 1, 0, NN__PLAIN, 0, nn__pool2d_shape,
                 nn__no_plan, NULL, NN__F(KERNEL) | NN__F(STRIDE) | NN__F(PAD) | NN__F(COUNT_PAD))
NN__DEFINE_OP_AS(avgpool1d, avgpool, "avgpool", "", 1, 1, 0, NN__PLAIN, 0, nn__pool1d_shape,
                 nn__no_plan, NULL, NN__F(KERNEL) | NN__F(STRIDE) | NN__F(PAD) | NN__F(COUNT_PAD))

/* Does step t of sample i of this turn count? */
static int nn__counts(const nn_model *m, const nn_row *in, int32_t i, int32_t t) {
    size_t number;
    if (!in->masked) return 1;
    number = nn__sample_number(m, i);
    if (m->lengths && t >= m->lengths[number]) return 0;
    if (in->masked < 2 || !m->run.data) return 1;
    return nn__label(m->run.data, number * (size_t)m->in_size + (size_t)t) + 1 !=
           m->rows[in->masked - 2].pad_id;
}

/* ---- globalavgpool: y[c] = mean of x[.][.][c], or over the steps that count ---- */

static int nn__globalpool_shape(nn_shape *s) {
    if (s->in[0]->ndim < 2) return nn_row_error(s, "needs an image [H,W,C] or a sequence [T,C]");
    s->out->dim[2] = s->in[0]->dim[2];
    s->out->ndim = 1;
    return 0;
}

/* Positions of sample i that count. */
static int32_t nn__count_positions(const nn_model *m, const nn_row *in, int32_t i) {
    int32_t area = in->dim[0] * in->dim[1], count = 0, t;
    for (t = 0; t < area; t++) count += nn__counts(m, in, i, t);
    return count;
}

static void nn__globalavgpool_forward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c);
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y);
    int32_t ch = in->dim[2], area = in->dim[0] * in->dim[1], i, t;
    for (i = 0; i < m->run.n; i++, x += nn__elements(in), y += ch) {
        int32_t count = nn__count_positions(m, in, i);
        NN_MEMSET(y, 0, (size_t)ch * 4);
        if (count == area) NN__CALL(m, add_rows, y, x, (size_t)area, ch, ch);
        for (t = 0; t < area && count < area; t++)
            if (nn__counts(m, in, i, t)) NN__CALL(m, add, y, y, x + t * ch, (size_t)ch);
        if (count) NN__CALL(m, divide, y, y, (float)count, (size_t)ch);
    }
}

#ifndef NN_NO_TRAIN
static void nn__globalavgpool_backward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c);
    const float *dy = nn__floats(m, c->dy);
    float *dx = nn__floats(m, c->dx);
    int32_t ch = in->dim[2], area = in->dim[0] * in->dim[1], i, t;
    for (i = 0; i < m->run.n; i++, dy += ch) {
        int32_t count = nn__count_positions(m, in, i);
        for (t = 0; t < area; t++, dx += ch)
            if (nn__counts(m, in, i, t)) NN__CALL(m, divide, dx, dy, (float)count, (size_t)ch);
            else NN_MEMSET(dx, 0, 4 * (size_t)ch);
    }
}
#endif

NN__DEFINE_OP(globalavgpool, "gap", "", 1, 1, 0, NN__OVERALL_ROLE, 0, nn__globalpool_shape,
              nn__no_plan, NULL, 0)

/* ---- globalmaxpool: y[c] = largest of x[.][.][c], or of the steps that count (0 if none) ----
   Ties go to the first; kept are the positions of the winners, -1: none. */

static void nn__globalmaxpool_plan(const nn_model *m, uint32_t row, nn_need *need) {
    need->keep = 4 * nn__elements(&m->row[row]);
}

static void nn__globalmaxpool_forward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c);
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y);
    unsigned char *keep = nn__at(m, c->keep);
    int32_t ch = in->dim[2], area = in->dim[0] * in->dim[1], i, t, j;
    for (i = 0; i < m->run.n; i++, x += nn__elements(in), y += ch) {
        int any = 0;
        NN_MEMSET(y, 0, 4 * (size_t)ch);
        if (keep) NN_MEMSET(keep, 0xff, 4 * (size_t)ch);
        for (t = 0; t < area; t++) {
            if (!nn__counts(m, in, i, t)) continue;
            for (j = 0; j < ch; j++) {
                float v = x[t * ch + j];
                if (any && !(v > y[j] || v != v)) continue;
                y[j] = v;
                if (keep) nn__put32(keep + 4 * j, (uint32_t)t);
            }
            any = 1;
        }
        if (keep) keep += 4 * (size_t)ch;
    }
}

#ifndef NN_NO_TRAIN
static void nn__globalmaxpool_backward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c);
    const float *dy = nn__floats(m, c->dy);
    const unsigned char *keep = nn__at(m, c->keep);
    float *dx = nn__floats(m, c->dx);
    int32_t ch = in->dim[2], i, j;
    NN_MEMSET(dx, 0, 4 * nn__samples(m) * (size_t)nn__elements(in));
    for (i = 0; i < m->run.n; i++, dx += nn__elements(in), dy += ch)
        for (j = 0; j < ch; j++, keep += 4) {
            uint32_t t = nn__get32(keep);
            if (t != UINT32_MAX) dx[(ptrdiff_t)t * ch + j] = dy[j];
        }
}
#endif

NN__DEFINE_OP(globalmaxpool, "gmp", "", 1, 1, 0, NN__OVERALL_ROLE, 0, nn__globalpool_shape,
              nn__globalmaxpool_plan, NULL, 0)

/* ---- batchnorm: y = act((x - mean) / sqrt(var + eps) * weight + bias), by channel ----
   Ioffe and Szegedy, 2015. Mean and biased variance of the batch while the row trains, the running
   ones otherwise. keep: mean, 1 / sqrt(var + eps), var. */

static int nn__batchnorm_shape(nn_shape *s) {
    int k;
    if (s->row->momentum > 1) return nn_row_error(s, "momentum must be from 0 to 1");
    NN_MEMCPY(s->out->dim, s->in[0]->dim, sizeof s->out->dim);
    s->out->ndim = s->in[0]->ndim;
    s->tensors = 4;
    for (k = 0; k < 4; k++) {
        s->dim[k][0] = s->in[0]->dim[2];
        s->tensor_ndim[k] = 1;
    }
    return 0;
}

static void nn__batchnorm_plan(const nn_model *m, uint32_t row, nn_need *need) {
    int kept = need->training && (m->row[row].flags & NN__GRAD);
    int64_t channels = m->row[row].dim[2];
    if (kept) need->keep_fixed = 12 * channels;
    else need->tmp = 12 * channels;
    if (m->row[row].flags & NN__TRAINS) {
        need->flags |= NN_NEED_X;
        need->tmp_back = 8 * channels;
    }
    if (m->row[row].act) need->flags |= NN_NEED_Y;
    need->flags |= NN_IN_PLACE | NN_IN_PLACE_BACK;
}

static float nn__batchnorm_eps(const nn_layer *row) {
    return row->eps != 0 ? row->eps : 9.9999997473787516e-6f;
}

static int nn__batchnorm_trains(const nn_model *m, const nn_cmd *c) {
    return (c->flags & NN__TRAINING) && (m->row[c->row].flags & NN__TRAINS);
}

/* Batch statistics; only a build that trains has them. */
#ifndef NN_NO_TRAIN
static void nn__batchnorm_moments(const nn_model *m, float *mean, float *var, const float *x,
                                  size_t n, int32_t c) {
    (void)m;
    NN__CALL(m, moments, mean, var, x, n, c);
}
#else
static void nn__batchnorm_moments(const nn_model *m, float *mean, float *var, const float *x,
                                  size_t n, int32_t c) {
    (void)m, (void)mean, (void)var, (void)x, (void)n, (void)c;
}
#endif

static void nn__batchnorm_forward(nn_model *m, const nn_cmd *c) {
    int32_t ch = m->row[c->row].dim[2];
    size_t n = nn__samples(m) * (size_t)nn__elements(&m->row[c->row]);
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y), *mean = nn__floats(m, c->keep != NN_AT_NONE ? c->keep : c->tmp);
    float *inv = mean + ch, *var = inv + ch;
    if (nn__batchnorm_trains(m, c)) {
        nn__batchnorm_moments(m, mean, var, x, n, ch);
    } else {
        NN_MEMCPY(mean, nn__values(m, nn__tensor(m, c, 2)), (size_t)ch * 4);
        NN_MEMCPY(var, nn__values(m, nn__tensor(m, c, 3)), (size_t)ch * 4);
    }
    NN__CALL(m, inverse_root, inv, var, (size_t)ch, nn__batchnorm_eps(&m->rows[c->row]));
    NN__CALL(m, normalize, y, x, n, ch, mean, inv, nn__values(m, nn__tensor(m, c, 0)),
             nn__values(m, nn__tensor(m, c, 1)));
    nn__apply_act(m, c, y, n);
}

#ifndef NN_NO_TRAIN
static void nn__batchnorm_backward(nn_model *m, const nn_cmd *c) {
    int32_t ch = m->row[c->row].dim[2], j;
    size_t n = nn__samples(m) * (size_t)nn__elements(&m->row[c->row]);
    float *dy = nn__floats(m, c->dy), *mean = nn__floats(m, c->keep), *sums = NULL;
    if (nn__batchnorm_trains(m, c)) sums = nn__floats(m, c->tmp);
    nn__apply_act_grad(m, c, dy, nn__floats(m, c->y), n);
    NN__CALL(m, normalize_grad, nn__floats(m, c->dx), sums, dy, nn__floats(m, c->x), n, ch, mean,
             mean + ch, nn__values(m, nn__tensor(m, c, 0)));
    for (j = 0; sums && j < ch; j++) {
        nn__grad(m, c, 0)[j] += sums[ch + j];
        nn__grad(m, c, 1)[j] += sums[j];
    }
}

static void nn__batchnorm_update(nn_model *m, const nn_cmd *c) {
    const nn_layer *row = &m->rows[c->row];
    const nn_row *r = &m->row[c->row];
    float *batch = nn__floats(m, c->keep),
          momentum = row->momentum != 0 ? row->momentum : 0.10000000149011612f;
    int64_t count = (int64_t)m->run.batch * r->dim[0] * r->dim[1];
    float unbias = 1.0f; /* n / (n - 1) */
    if (!row->biased && count > 1) unbias = (float)count / (float)(count - 1);
    NN__CALL(m, running, nn__values(m, nn__tensor(m, c, 2)), batch, r->dim[2], momentum, 1.0f);
    NN__CALL(m, running, nn__values(m, nn__tensor(m, c, 3)), batch + 2 * r->dim[2], r->dim[2],
             momentum, unbias);
}
#endif

NN__DEFINE_OP(batchnorm, "norm", "weight bias running_mean running_var", 1, 1, 2, NN__PLAIN, 0,
              nn__batchnorm_shape, nn__batchnorm_plan, NN__TRAIN_ONLY(nn__batchnorm_update),
              NN__F(EPS) | NN__F(MOMENTUM) | NN__F(BIASED) | NN__F(ACT) | NN__F(SLOPE) | NN__F(LR) |
                  NN__F(NO_DECAY))

/* ---- dropout: y = x / (1 - rate), or 0 with probability rate ----
   Srivastava et al., 2014. The mask is a function of seed, step, row, sample and element, so
   backward draws it again. */

static int nn__same_shape(nn_shape *s) {
    NN_MEMCPY(s->out->dim, s->in[0]->dim, sizeof s->out->dim);
    s->out->ndim = s->in[0]->ndim;
    return 0;
}

static int nn__dropout_shape(nn_shape *s) {
    if (!(s->row->rate > 0 && s->row->rate < 1))
        return nn_row_error(s, "rate must be between 0 and 1");
    return nn__same_shape(s);
}

static void nn__dropout_plan(const nn_model *m, uint32_t row, nn_need *need) {
    const nn_row *r = &m->row[row];
    /* below the lowest trainable row: off, which its input tells */
    int on = need->live && (m->row[m->input[r->input]].flags & NN__LIVE);
    need->flags |= on ? NN_IN_PLACE | NN_IN_PLACE_BACK : NN_ALIAS;
}

/* Samples of n elements each, with the rate and key of a row; salt tells apart several masks of
   one. to may be from. */
static void nn__drop_samples(nn_model *m, uint32_t row, uint64_t salt, float *to, const float *from,
                             size_t n) {
    float rate = m->rows[row].rate, keep = 1.0f - rate, scale = 1.0f / keep;
    uint32_t below = (uint32_t)(rate * 16777216.0f); /* exact: a power of two, and truncated */
    size_t s;
    for (s = 0; s < nn__samples(m); s++) {
        uint64_t key =
            nn__key(m->opts.seed + salt, m->run.step, (uint64_t)row << 32 | (m->run.sample + s));
        NN__CALL(m, drop, to + s * n, from + s * n, n, key, below, scale);
    }
}

static void nn__dropout_apply(nn_model *m, const nn_cmd *c, float *to, const float *from) {
    nn__drop_samples(m, c->row, 0, to, from, (size_t)nn__elements(&m->row[c->row]));
}

static void nn__dropout_forward(nn_model *m, const nn_cmd *c) {
    nn__dropout_apply(m, c, nn__floats(m, c->y), nn__floats(m, c->x));
}

#ifndef NN_NO_TRAIN
static void nn__dropout_backward(nn_model *m, const nn_cmd *c) {
    nn__dropout_apply(m, c, nn__floats(m, c->dx), nn__floats(m, c->dy));
}
#endif

NN__DEFINE_OP(dropout, "dropout", "", 1, 1, 0, NN__PLAIN, 0, nn__dropout_shape, nn__dropout_plan,
              NULL, NN__F(RATE))

/* ---- flatten: [H,W,C] to [N] ----
   In the order (h, w, c), or (c, h, w) for weights that expect it. */

static int nn__flatten_shape(nn_shape *s) {
    s->out->dim[2] = (int32_t)nn__elements(s->in[0]);
    s->out->ndim = 1;
    return 0;
}

static void nn__flatten_plan(const nn_model *m, uint32_t row, nn_need *need) {
    const nn_row *in = &m->row[m->input[m->row[row].input]];
    if (m->rows[row].order == NN_HWC || in->dim[2] == 1 || in->dim[0] * in->dim[1] == 1)
        need->flags |= NN_ALIAS;
}

static void nn__flatten_forward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c);
    size_t ch = (size_t)in->dim[2], area = (size_t)in->dim[0] * (size_t)in->dim[1], s, i, j;
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y);
    for (s = 0; s < nn__samples(m); s++, y += ch * area)
        for (i = 0; i < area; i++)
            for (j = 0; j < ch; j++) y[j * area + i] = *x++;
}

#ifndef NN_NO_TRAIN
static void nn__flatten_backward(nn_model *m, const nn_cmd *c) {
    const nn_row *in = nn__in(m, c);
    size_t ch = (size_t)in->dim[2], area = (size_t)in->dim[0] * (size_t)in->dim[1], s, i, j;
    const float *dy = nn__floats(m, c->dy);
    float *dx = nn__floats(m, c->dx);
    for (s = 0; s < nn__samples(m); s++, dy += ch * area)
        for (i = 0; i < area; i++)
            for (j = 0; j < ch; j++) *dx++ = dy[j * area + i];
}
#endif

NN__DEFINE_OP(flatten, "flatten", "", 1, 1, 0, NN__PLAIN, 0, nn__flatten_shape, nn__flatten_plan,
              NULL, NN__F(ORDER))

/* ---- add: y = act(x0 + x1 + ...), in that order ---- */

static int nn__add_shape(nn_shape *s) {
    int i, k;
    for (i = 1; i < s->inputs; i++)
        for (k = 0; k < 3; k++)
            if (s->in[i]->dim[k] != s->in[0]->dim[k] || s->in[i]->ndim != s->in[0]->ndim)
                return NN__ROW_FAIL(s, "adds %S to %S", s->in[i], s->in[0]);
    return nn__same_shape(s);
}

static void nn__add_plan(const nn_model *m, uint32_t row, nn_need *need) {
    if (m->row[row].act) need->flags |= NN_NEED_Y;
    need->flags |= NN_IN_PLACE | NN_IN_PLACE_BACK;
}

static void nn__add_forward(nn_model *m, const nn_cmd *c) {
    size_t n = nn__samples(m) * (size_t)nn__elements(&m->row[c->row]);
    float *y = nn__floats(m, c->y);
    NN__CALL(m, add, y, nn__floats(m, c->x), nn__floats(m, c->x2), n);
    if (c->flags & NN__FINAL) nn__apply_act(m, c, y, n);
}

#ifndef NN_NO_TRAIN
static void nn__add_backward(nn_model *m, const nn_cmd *c) {
    size_t n = nn__samples(m) * (size_t)nn__elements(&m->row[c->row]);
    float *dy = nn__floats(m, c->dy), *dx = nn__floats(m, c->dx);
    if (c->flags & NN__FIRST) nn__apply_act_grad(m, c, dy, nn__floats(m, c->y), n);
    if (dx && dx != dy) NN_MEMCPY(dx, dy, n * 4);
}
#endif

NN__DEFINE_OP(add, "add", "", 2, 8, 0, NN__PLAIN, 0, nn__add_shape, nn__add_plan, NULL,
              NN__F(ACT) | NN__F(SLOPE))

/* ---- activation: y = act(x); the gradient needs only y ---- */

static int nn__activation_shape(nn_shape *s) {
    if (!s->row->act) return nn_row_error(s, "act is missing");
    return nn__same_shape(s);
}

static void nn__activation_plan(const nn_model *m, uint32_t row, nn_need *need) {
    (void)m, (void)row;
    need->flags |= NN_NEED_Y | NN_IN_PLACE | NN_IN_PLACE_BACK;
}

static void nn__activation_forward(nn_model *m, const nn_cmd *c) {
    size_t n = nn__samples(m) * (size_t)nn__elements(&m->row[c->row]);
    const float *x = nn__floats(m, c->x);
    float *y = nn__floats(m, c->y);
    if (x != y) NN_MEMCPY(y, x, n * 4);
    nn__apply_act(m, c, y, n);
}

#ifndef NN_NO_TRAIN
static void nn__activation_backward(nn_model *m, const nn_cmd *c) {
    size_t n = nn__samples(m) * (size_t)nn__elements(&m->row[c->row]);
    float *dy = nn__floats(m, c->dy), *dx = nn__floats(m, c->dx);
    if (dx != dy) NN_MEMCPY(dx, dy, n * 4);
    nn__apply_act_grad(m, c, dx, nn__floats(m, c->y), n);
}
#endif

NN__DEFINE_OP(activation, "act", "", 1, 1, 0, NN__ACT_ROLE, 0, nn__activation_shape,
              nn__activation_plan, NULL, NN__F(ACT) | NN__F(SLOPE))

/* ---- embedding: y[t] = w[id[t]] ----
   Gradients are summed sample by sample, each from its last step to its first. A recurrent row in
   one direction that alone reads it gathers the vectors by itself. */

static int nn__reads_ids(const nn_shape *s) {
    const nn_model *m = ((const nn__planner *)s->planner)->m;
    return s->in[0] == m->row && m->rows->type == NN_I32;
}

static int nn__embedding_shape(nn_shape *s) {
    const nn_layer *row = s->row;
    if (row->units < 1) return nn_row_error(s, "units is missing");
    if (row->vocab < 1) return nn_row_error(s, "vocab is missing");
    if (row->pad_id > row->vocab) return nn_row_error(s, "pad_id is not below vocab");
    if (row->mask && !row->pad_id) return nn_row_error(s, "mask needs a pad_id");
    if (!nn__reads_ids(s))
        return nn_row_error(s, "reads ids only: an input with type = NN_I32 and shape {T}");
    s->out->dim[1] = s->in[0]->dim[2];
    s->out->dim[2] = row->units;
    s->out->ndim = 2;
    s->tensors = 1;
    s->dim[0][0] = row->vocab;
    s->dim[0][1] = row->units;
    s->tensor_ndim[0] = 2;
    return 0;
}

static void nn__embedding_plan(const nn_model *m, uint32_t row, nn_need *need) {
    if (m->row[row].flags & NN__TRAINS) need->flags |= NN_NEED_X;
}

static void nn__embedding_forward(nn_model *m, const nn_cmd *c) {
    const nn_row *r = &m->row[c->row];
    const float *w = nn__values(m, nn__tensor(m, c, 0));
    const unsigned char *ids = nn__at(m, c->x);
    size_t size = (size_t)r->dim[2], n = nn__samples(m) * (size_t)r->dim[1], i;
    float *y = nn__floats(m, c->y);
    for (i = 0; i < n; i++, y += size)
        NN_MEMCPY(y, w + (size_t)nn__label(ids, i) * size, 4 * size);
}

#ifndef NN_NO_TRAIN
/* The gradient of embedding row i, to add vectors to. */
typedef struct nn__vectors {
    float *whole; /* NULL: list */
    nn__sparse list;
    size_t units;
    int32_t pad_id;
} nn__vectors;

static nn__vectors nn__vectors_of(const nn_model *m, const nn_cmd *c) {
    const nn_tensor *t = nn__tensor(m, c, 0);
    nn__vectors v;
    NN_MEMSET(&v, 0, sizeof v);
    v.whole = nn__grad(m, c, 0);
    v.units = (size_t)m->rows[c->row].units;
    v.pad_id = m->rows[c->row].pad_id;
    if (!nn__is_sparse(m, t)) return v;
    v.list = nn__sparse_at(m, t, v.whole);
    v.whole = NULL;
    return v;
}

static void nn__add_vector(const nn_model *m, const nn__vectors *v, int32_t id, const float *dy) {
    float *to;
    if (id + 1 == v->pad_id) return;
    to = v->whole ? v->whole + (size_t)id * v->units
                  : nn__sparse_vector(&v->list, id, dy, v->units);
    if (to) NN__CALL(m, add, to, to, dy, v->units);
}

static void nn__embedding_backward(nn_model *m, const nn_cmd *c) {
    const nn_row *r = &m->row[c->row];
    const unsigned char *ids = nn__at(m, c->x);
    size_t steps = (size_t)r->dim[1], i, t;
    nn__vectors v;
    if (!(r->flags & NN__TRAINS)) return;
    v = nn__vectors_of(m, c);
    for (i = 0; i < nn__samples(m); i++)
        for (t = i * steps + steps; t-- > i * steps;)
            nn__add_vector(m, &v, nn__label(ids, t), nn__floats(m, c->dy) + t * v.units);
}
#endif

NN__DEFINE_OP(embedding, "embedding", "weight", 1, 1, 0, NN__EMBEDDING_ROLE, 0, nn__embedding_shape,
              nn__embedding_plan, NULL,
              NN__F(UNITS) | NN__F(VOCAB) | NN__F(PAD_ID) | NN__F(MASK) | NN__F(SPARSE) |
                  NN__F(LR) | NN__F(NO_DECAY))

/* ---- lstm, gru, rnn: h[t] from x[t] and h[t - 1], by layer and direction ----
     lstm  i, f, o = s(.), g = tanh(.) of W_ih x + b_ih + b_hh + W_hh h; c = f c + i g;
           h = o tanh(c)
     gru   r, z = s(W_ih x + b_ih + W_hh h + b_hh), n = tanh(W_in x + b_in + r (W_hn h + b_hn));
           h = n + z (h - n). reset_before: n = tanh(W_in x + b_in + W_hn (r h))
     rnn   h = act(W_ih x + b_ih + b_hh + W_hh h)
   A step that does not count leaves the state as it was, and its output is zero.

   One layer and direction is a pass, with tensors of its own (a set). Its steps are numbered in the
   order it takes them. For backward a pass keeps

     z   gates, [n][t][gates]; backward turns them into their gradients
     q   gru: what h adds to the gates, likewise
     h   the states, [n][t + 1][units]: before the first step and after each
     c   lstm: cells, likewise

   A tight plan (see nn_opts.budget) keeps only h and c before every segment of sqrt(t) steps, and
   computes the rest again, a segment at a time. Inference has z as [chunk][n][gates], and of q, h
   and c one step. Sums of weight gradients run sample by sample, each from its last step to its
   first, so that segments do not change them. The vectors of an embedding below are gathered where
   they are needed. */

typedef struct nn__recurrent {
    int32_t t, n, in, units, gates; /* steps, samples that buffers take; gates * units of a cell */
    int32_t layers, ways;
    int32_t chunk;   /* steps that are projected at a time */
    int32_t segment; /* steps between saved states; t in a plan that is not tight */
    int32_t held;    /* steps that the buffers of a pass hold; 0: inference */
    int gru, lstm, reset_before, gathers;
    ptrdiff_t z_step, q_step, h_step; /* from step to step; 0: in the same place */
    ptrdiff_t z_row, q_row, h_row;    /* from sample to sample */
    int64_t z, q, h, c, pass;         /* floats of each in a pass, of all of them */
    int64_t seq, saved; /* of a sequence between layers, of the saved states of a pass */
} nn__recurrent;

#define NN__PROJECTED \
    65536 /* floats of z at a time: they shall still be in the cache when the step
                               comes to them */

/* Gates of a cell. By name, since naming the ops here would link them all. */
static int32_t nn__recurrent_gates(const nn_layer *row) {
    return row->op->name[0] == 'l' ? 4 : row->op->name[0] == 'g' ? 3 : 1;
}

/* Floats of a sample's state in the first set sets of a row, at most all. */
static int32_t nn__recurrent_state(const nn_layer *row, int32_t sets) {
    sets = nn__min(sets, nn__or1(row->layers) * (row->bidirectional + 1));
    return sets * row->units * (nn__recurrent_gates(row) == 4 ? 2 : 1);
}

/* held: 1: the buffers of a pass hold a segment, for backward; 0: what one step needs. */
static nn__recurrent nn__recurrent_of(const nn_model *m, uint32_t i, int held) {
    const nn_layer *row = &m->rows[i];
    const nn_row *in = &m->row[m->input[m->row[i].input]];
    int64_t size;
    nn__recurrent r;
    NN_MEMSET(&r, 0, sizeof r);
    r.t = in->dim[1];
    r.n = m->micro;
    r.in = in->dim[2];
    r.units = row->units;
    r.gates = nn__recurrent_gates(row) * row->units;
    r.lstm = nn__recurrent_gates(row) == 4;
    r.gru = nn__recurrent_gates(row) == 3;
    r.reset_before = row->reset_before;
    r.gathers = (in->flags & NN__GATHERED) != 0;
    r.layers = nn__or1(row->layers);
    r.ways = row->bidirectional + 1;
    size = (int64_t)r.n * r.gates;
    r.chunk = m->tight ? 1 : nn__min(r.t, nn__max(1, (int32_t)(NN__PROJECTED / size)));
    r.segment = m->tight ? 1 : r.t;
    while (r.segment < r.t && (int64_t)r.segment * r.segment < r.t) r.segment++;
    r.held = held ? r.segment : 0;
    r.z_step = held ? r.gates : (ptrdiff_t)size;
    r.q_step = held ? r.gates : 0;
    r.h_step = held ? r.units : 0;
    r.z_row = r.q_row = nn__max(1, r.held) * (ptrdiff_t)r.gates;
    r.h_row = ((ptrdiff_t)r.held + 1) * r.units;
    r.z = nn__times(held ? r.held : r.chunk, size);
    r.q = r.gru ? nn__times(nn__max(1, r.held), size) : 0;
    r.h = nn__times((int64_t)r.held + 1, nn__times(r.n, r.units));
    r.c = r.lstm ? r.h : 0;
    r.pass = r.z + r.q + r.h + r.c;
    r.seq = nn__times(nn__times(r.n, r.t), nn__times(r.ways, r.units));
    r.saved = nn__times((r.t - 1) / r.segment + 1, nn__times(r.n, r.units)) * (r.lstm + 1);
    return r;
}

static int nn__recurrent_shape(nn_shape *s) {
    const nn_layer *row = s->row;
    int32_t ways = row->bidirectional + 1, layer = s->set / ways, gates = nn__recurrent_gates(row);
    int k;
    if (row->units < 1) return nn_row_error(s, "units is missing");
    if (row->units > (1 << 24)) return nn_row_error(s, "units is more than 2^24");
    if (s->in[0]->ndim != 2) return nn_row_error(s, "its input must be a sequence, [T,N]");
    if (row->rate > 0 && nn__or1(row->layers) == 1)
        return nn_row_error(s, "rate drops between layers, and there is one");
    if (!(row->rate < 1)) return nn_row_error(s, "rate must be below 1");
    if (gates == 1 && row->act != NN_LINEAR && row->act != NN_TANH && row->act != NN_RELU)
        return nn_row_error(s, "act must be NN_TANH or NN_RELU");
    if (row->no_bias && row->one_bias) return nn_row_error(s, "no_bias leaves no one_bias");
    if (row->reset_before && !row->no_bias && !row->one_bias)
        return nn_row_error(s, "reset_before takes one_bias or no_bias");
    s->sets = nn__or1(row->layers) * ways;
    s->out->dim[1] = row->last ? 1 : s->in[0]->dim[1];
    s->out->dim[2] = ways * row->units;
    s->out->ndim = row->last ? 1 : 2;
    if (gates == 1 && !row->act) s->out->act = NN_TANH;
    s->tensors = row->no_bias ? 2 : row->one_bias ? 3 : 4;
    for (k = 0; k < 4; k++) {
        s->dim[k][0] = gates * row->units;
        s->tensor_ndim[k] = k < 2 ? 2 : 1;
        s->panels[k] = k < 2;
    }
    s->dim[0][1] = layer ? ways * row->units : s->in[0]->dim[2];
    s->dim[1][1] = row->units;
    s->state = gates == 4 ? 2 * row->units : row->units;
    return 0;
}

static void nn__recurrent_plan(const nn_model *m, uint32_t row, nn_need *need) {
    int kept = need->training && (m->row[row].flags & NN__GRAD);
    nn__recurrent r = nn__recurrent_of(m, row, kept && !m->tight);
    int64_t sets = r.layers * r.ways, state = (int64_t)r.n * r.units;
    int64_t between = nn__min(r.layers - 1, 2) * r.seq;
    int64_t x = r.gathers ? nn__times(r.n, r.in) : 0;
    const nn_row *in = &m->row[m->input[m->row[row].input]];
    if (m->tight || (m->row[row].flags & NN__TRAINS) || (r.gathers && (in->flags & NN__TRAINS)))
        need->flags |= NN_NEED_X;
    need->tmp = 4 * ((r.reset_before ? state : 0) + nn__times(r.chunk, x));
    if (!r.held) need->tmp += 4 * r.pass;
    if (!kept) need->tmp += 4 * between;
    if (!kept) return;
    need->keep_fixed = 4 * (sets * (m->tight ? r.saved : r.pass) + (r.layers - 1) * r.seq);
    r = nn__recurrent_of(m, row, 1);
    need->tmp_back = 4 * (2 * state + between + 2 * nn__times(r.held, x));
    need->tmp_back += 4 * (m->tight ? r.pass : nn__transposed_size(r.gates, r.units));
    if (r.reset_before) need->tmp_back += 4 * (r.q + nn__times(r.held, state) + state);
}

/* What a pass works on. */
typedef struct nn__pass {
    float *z, *q, *h, *c;
    int32_t base;       /* the step that they begin with */
    const nn_tensor *w; /* weight_ih, weight_hh, bias_ih, bias_hh */
    int tensor, biases; /* number of the first of the row, and how many biases */
    int backwards;
    nn__span x;       /* samples, steps; at NULL: gathered when needed */
    int32_t x_base;   /* the step that it begins with */
    int32_t in;       /* elements of x */
    float *carry;     /* states of the first sample; NULL: zeros */
    float *saved;     /* states before segments; NULL: not wanted */
    float *rh, *room; /* scratch: r h0, what is gathered */
} nn__pass;

/* The time of a step of a pass. */
NN__INLINE int32_t nn__time(const nn__recurrent *r, const nn__pass *p, int32_t step) {
    return p->backwards ? r->t - 1 - step : step;
}

/* The pass over set number set, whose buffers lie at base and whose input is x, [n][t][in]. */
static nn__pass nn__begin_pass(const nn_model *m, const nn_cmd *c, const nn__recurrent *r, int set,
                               float *base, float *x) {
    nn__pass p;
    int each = m->row[c->row].tensors / (r->layers * r->ways);
    NN_MEMSET(&p, 0, sizeof p);
    p.tensor = set * each;
    p.biases = each - 2;
    p.w = nn__tensor(m, c, p.tensor);
    p.z = base;
    p.q = p.z + r->z;
    p.h = p.q + r->q;
    p.c = p.h + r->h;
    p.backwards = set % r->ways;
    p.in = p.w->dim[1];
    p.x = nn__span_of(NULL, (ptrdiff_t)r->t * p.in, p.backwards ? -p.in : p.in);
    if (x && !(r->gathers && set < r->ways)) p.x.at = x + (ptrdiff_t)nn__time(r, &p, 0) * p.in;
    if (m->run.carries) {
        uint32_t i;
        p.carry = nn__floats(m, m->carry_offset) + (ptrdiff_t)m->run.at * m->carry_size;
        for (i = 0; i <= c->row; i++)
            if (m->rows[i].op->role == NN__RECURRENT_ROLE)
                p.carry += nn__recurrent_state(&m->rows[i], i < c->row ? INT32_MAX : set);
    }
    return p;
}

/* Copies the states that lie at h and c to or from those of all samples at states, size floats
   apart; states NULL: zeros. */
static void nn__copy_states(const nn_model *m, const nn__recurrent *r, float *h, float *c,
                            float *states, ptrdiff_t size, int save) {
    size_t bytes = 4 * (size_t)r->units;
    int32_t i;
    for (i = 0; i < m->run.n; i++, h += r->h_row, c += r->h_row) {
        float *at = states ? states + i * size : NULL;
        if (save && at) NN_MEMCPY(at, h, bytes);
        else if (at) NN_MEMCPY(h, at, bytes);
        else if (!save) NN_MEMSET(h, 0, bytes);
        if (!r->lstm) continue;
        if (save && at) NN_MEMCPY(at + r->units, c, bytes);
        else if (at) NN_MEMCPY(c, at + r->units, bytes);
        else if (!save) NN_MEMSET(c, 0, bytes);
    }
}

/* The states before step, which begins a segment, to or from where they are saved. */
static void nn__segment_states(const nn_model *m, const nn__recurrent *r, const nn__pass *p,
                               int32_t step, int save) {
    ptrdiff_t size = r->units * (r->lstm + 1), at = (step - p->base) * r->h_step;
    nn__copy_states(m, r, p->h + at, p->c + at,
                    p->saved + (ptrdiff_t)(step / r->segment) * r->n * size, size, save);
}

/* The vectors of steps [first, first + count) into room, as the x of the pass. */
static void nn__gather(const nn_model *m, const nn_cmd *c, const nn__recurrent *r, nn__pass *p,
                       int32_t first, int32_t count) {
    const float *w = nn__values(m, &m->tensor[nn__in(m, c)->tensor]);
    const unsigned char *ids = nn__at(m, c->x);
    float *to = p->room;
    int32_t i, step;
    for (i = 0; i < m->run.n; i++)
        for (step = first; step < first + count; step++, to += p->in)
            NN_MEMCPY(to,
                      w + (ptrdiff_t)p->in * nn__label(ids, (size_t)i * (size_t)r->t +
                                                                (size_t)nn__time(r, p, step)),
                      4 * (size_t)p->in);
    p->x = nn__span_of(p->room, (ptrdiff_t)count * p->in, p->in);
    p->x_base = first;
}

/* Step number step of all samples; z holds what x gives. */
static void nn__recurrent_step(nn_model *m, const nn_cmd *c, const nn__recurrent *r,
                               const nn__pass *p, int32_t step, float *z, nn__span y) {
    int32_t t = nn__time(r, p, step), u = r->units, n = m->run.n, i;
    ptrdiff_t slot = (step - p->base) * r->h_step;
    float *h0 = p->h + slot, *h = h0 + r->h_step, *c0 = p->c + slot, *cell = c0 + r->h_step;
    float *q = p->q + (step - p->base) * r->q_step;
    nn__span to = r->gru ? nn__span_of(q, r->q_row, 0) : nn__span_of(z, r->z_row, 0);
    const float *bias = p->biases > 1 ? nn__values(m, p->w + 3) : NULL;
    nn__linear(m, p->w + 1, bias, nn__span_of(h0, r->h_row, 0), to, n, 1, !r->gru);
    for (i = 0; r->reset_before && i < n; i++)
        NN__CALL(m, gru_gates, z + i * r->z_row, q + i * r->q_row, p->rh + i * u, h0 + i * r->h_row,
                 u);
    if (r->reset_before) nn__linear(m, p->w + 1, NULL, nn__span_of(p->rh, u, 0), to, n, 1, 0);
    for (i = 0; i < n; i++, z += r->z_row, q += r->q_row) {
        int counts = nn__counts(m, nn__in(m, c), i, t);
        float *out = y.at ? y.at + i * y.inner + t * y.outer : NULL;
        ptrdiff_t at = i * r->h_row;
        if (!counts) {
            if (r->h_step) NN_MEMCPY(h + at, h0 + at, 4 * (size_t)u);
            if (r->h_step && r->lstm) NN_MEMCPY(cell + at, c0 + at, 4 * (size_t)u);
        } else if (r->lstm) {
            NN__CALL(m, lstm, z, h + at, cell + at, c0 + at, u);
        } else if (r->gru) {
            if (!r->reset_before) NN__CALL(m, gru_gates, z, q, NULL, h0 + at, u);
            NN__CALL(m, gru, z, q, h + at, h0 + at, u, !r->reset_before);
        } else {
            NN__CALL(m, act, z, (size_t)u, u, m->row[c->row].act, 0);
            NN_MEMCPY(h + at, z, 4 * (size_t)u);
        }
        if (out && counts) NN_MEMCPY(out, h + at, 4 * (size_t)u);
        else if (out) NN_MEMSET(out, 0, 4 * (size_t)u);
    }
}

/* Steps [first, first + count) from the states before them. y: [n][t][ways * units] from this
   pass's first element on; at NULL: only the states are wanted. */
static void nn__recurrent_run(nn_model *m, const nn_cmd *c, const nn__recurrent *r, nn__pass *p,
                              int32_t first, int32_t count, nn__span y) {
    const float *bias = p->biases ? nn__values(m, p->w + 2) : NULL;
    int32_t end = first + count, step;
    int gathers = !p->x.at;
    while (first < end) {
        int32_t chunk = nn__min(r->chunk, end - first);
        nn__span x, z = nn__span_of(p->z, r->z_row, r->z_step);
        if (gathers) nn__gather(m, c, r, p, first, chunk);
        x = p->x;
        x.at += (first - p->x_base) * x.outer;
        if (r->held) z.at += (first - p->base) * z.outer;
        nn__linear(m, p->w, bias, x, z, m->run.n, chunk, 0);
        for (step = 0; step < chunk; step++, first++) {
            if (p->saved && !r->held && first % r->segment == 0)
                nn__segment_states(m, r, p, first, 1);
            nn__recurrent_step(m, c, r, p, first, z.at + step * z.outer, y);
        }
    }
    if (gathers) p->x.at = NULL;
}

/* Dropout between layers, on the sequence above layer; in training only. */
static void nn__recurrent_drop(nn_model *m, const nn_cmd *c, const nn__recurrent *r, int32_t layer,
                               float *y) {
    uint64_t salt = (uint64_t)(layer + 1) * 0x9e3779b97f4a7c15u;
    if (m->rows[c->row].rate > 0 && (c->flags & NN__TRAINING))
        nn__drop_samples(m, c->row, salt, y, y, (size_t)r->t * (size_t)(r->ways * r->units));
}

static void nn__recurrent_forward(nn_model *m, const nn_cmd *c) {
    int kept = c->keep != NN_AT_NONE, last = m->rows[c->row].last, set;
    nn__recurrent r = nn__recurrent_of(m, c->row, kept && !m->tight);
    int32_t wide = r.ways * r.units, sets = r.layers * r.ways, layer, i;
    float *rh = nn__floats(m, c->tmp), *room = rh, *base, *saved, *between;
    float *x = nn__floats(m, c->x);
    if (r.reset_before) room += r.n * r.units;
    base = room;
    if (r.gathers) base += (ptrdiff_t)r.chunk * r.n * r.in;
    saved = kept ? nn__floats(m, c->keep) : NULL;
    between = kept ? saved + sets * (m->tight ? r.saved : r.pass) : base + r.pass;
    if (r.held) base = saved;
    for (layer = 0; layer < r.layers; layer++) {
        int top = layer + 1 == r.layers;
        float *to = top ? nn__floats(m, c->y) : between + (kept ? layer : layer % 2) * r.seq;
        for (set = layer * r.ways; set < (layer + 1) * r.ways; set++) {
            nn__pass p = nn__begin_pass(m, c, &r, set, r.held ? base + set * r.pass : base, x);
            float *y = to + p.backwards * r.units, *h = p.h + r.held * r.h_step;
            nn__span out = nn__span_of(top && last ? NULL : y, (ptrdiff_t)r.t * wide, wide);
            p.rh = rh;
            p.room = room;
            if (kept && m->tight) p.saved = saved + set * r.saved;
            nn__copy_states(m, &r, p.h, p.c, p.carry, m->carry_size, 0);
            nn__recurrent_run(m, c, &r, &p, 0, r.t, out);
            if (p.carry)
                nn__copy_states(m, &r, h, p.c + r.held * r.h_step, p.carry, m->carry_size, 1);
            for (i = 0; top && last && i < m->run.n; i++)
                NN_MEMCPY(y + i * wide, h + i * r.h_row, 4 * (size_t)r.units);
        }
        if (!top) nn__recurrent_drop(m, c, &r, layer, to);
        x = to;
    }
}

#ifndef NN_NO_TRAIN
/* Where backward of a pass works. */
typedef struct nn__pass_grad {
    float *dh, *dc;       /* [n][units], of the states after a step, then of those before it */
    nn__span dy, dx;      /* as y and x of a run; dy.at NULL: none but dh; dx.at NULL: not wanted */
    int add;              /* to dx */
    float *packed;        /* weight_hh, or NULL */
    float *room;          /* gathered: dx of a segment */
    float *rz, *rh, *drh; /* reset_before: gradients of r and z, r h0, of a segment; scratch */
} nn__pass_grad;

/* dw[g][i] += sum over samples, count steps from the last of a segment, of dz[g] x[i]; x of the
   last step. */
static void nn__recurrent_weight_grad(const nn_model *m, const nn_cmd *c, const nn__recurrent *r,
                                      int tensor, nn__span x, const float *dz, int32_t count) {
    enum { CACHED = 65536 }; /* floats of dz that are still there for the next columns */
    const nn_tensor *w = nn__tensor(m, c, tensor);
    int32_t samples = (int32_t)nn__max(1, CACHED / r->gates / nn__max(1, count)), i;
    nn__gemm g;
    nn__begin_gemm(&g);
    g.a = x.at;
    g.ar[0] = 1;
    g.ak[0] = x.outer;
    g.ak[1] = x.inner;
    g.b = dz + (count - 1) * r->z_step;
    g.bc = 1;
    g.bk[0] = -r->z_step;
    g.bk[1] = r->z_row;
    g.n[0] = count;
    g.rows[0] = w->dim[1];
    g.cols = r->gates;
    g.cc = w->dim[1];
    g.c_panels = 1;
    g.add = 1;
    g.c = nn__grad(m, c, tensor);
    for (i = 0; g.c && i < m->run.n; i += g.n[1]) {
        g.n[1] = nn__min(samples, m->run.n - i);
        NN__CALL(m, gemm, &g);
        g.a += g.n[1] * x.inner;
        g.b += g.n[1] * r->z_row;
    }
}

static void nn__recurrent_bias_grad(const nn_model *m, const nn_cmd *c, const nn__recurrent *r,
                                    int tensor, const float *dz, int32_t count) {
    float *db = nn__grad(m, c, tensor);
    int32_t i;
    for (i = 0; db && i < m->run.n; i++)
        NN__CALL(m, add_rows, db, dz + (count - 1) * r->z_step + i * r->z_row, (size_t)count,
                 r->gates, -r->z_step);
}

/* dh and dc, those of the state after a step, to those before it; z and q to their gradients. */
static void nn__recurrent_step_grad(nn_model *m, const nn_cmd *c, const nn__recurrent *r,
                                    const nn__pass *p, const nn__pass_grad *d, int32_t step) {
    int32_t t = nn__time(r, p, step), at = step - p->base, u = r->units, n = m->run.n, i;
    float *z = p->z + at * r->z_step, *q = p->q + at * r->q_step, *h0 = p->h + at * r->h_step;
    float *c0 = p->c + at * r->h_step, *cell = c0 + r->h_step;
    nn__span hidden = r->gru ? nn__span_of(q, r->q_row, 0) : nn__span_of(z, r->z_row, 0);
    for (i = 0; i < n; i++) {
        float *zi = z + i * r->z_row, *qi = q + i * r->q_row, *dh = d->dh + i * u;
        ptrdiff_t row = i * r->h_row;
        if (!nn__counts(m, nn__in(m, c), i, t)) {
            NN_MEMSET(zi, 0, 4 * (size_t)r->gates);
            if (r->gru) NN_MEMSET(qi, 0, 4 * (size_t)r->gates);
            continue;
        }
        if (d->dy.at)
            NN__CALL(m, add, dh, dh, d->dy.at + i * d->dy.inner + t * d->dy.outer, (size_t)u);
        if (r->lstm) {
            NN__CALL(m, lstm_grad, zi, dh, d->dc + i * u, cell + row, c0 + row, u);
        } else if (r->gru) {
            NN__CALL(m, gru_grad, zi, qi, dh, h0 + row, u, !r->reset_before);
        } else {
            NN__CALL(m, act_grad, dh, zi, (size_t)u, u, m->row[c->row].act, 0);
            NN_MEMCPY(zi, dh, 4 * (size_t)u);
            NN_MEMSET(dh, 0, 4 * (size_t)u);
        }
    }
    if (r->reset_before) {
        nn__linear_input_grad(m, p->w + 1, d->packed, hidden, nn__span_of(d->drh, u, 0), n, 1, 0);
        for (i = 0; i < n; i++) {
            float *zi = z + i * r->z_row, *rz = d->rz + at * r->q_step + i * r->q_row;
            float *rh = d->rh + ((ptrdiff_t)i * r->held + at) * u;
            if (nn__counts(m, nn__in(m, c), i, t))
                NN__CALL(m, gru_reset_grad, zi, rh, d->dh + i * u, d->drh + i * u,
                         h0 + i * r->h_row, u);
            else NN_MEMSET(rh, 0, 4 * (size_t)u);
            NN_MEMCPY(rz, zi, 8 * (size_t)u);
            NN_MEMSET(rz + 2 * u, 0, 4 * (size_t)u);
        }
        hidden.at = d->rz + at * r->q_step;
    }
    if (step) /* who wants the gradient of the state before the first? */
        nn__linear_input_grad(m, p->w + 1, d->packed, hidden, nn__span_of(d->dh, u, 0), n, 1, 1);
}

/* Adds dx of a segment to the gradient of the embedding it was gathered from. */
static void nn__scatter(const nn_model *m, const nn_cmd *c, const nn__recurrent *r,
                        const nn__pass *p, const nn__pass_grad *d, int32_t first, int32_t count) {
    nn_cmd below = *c;
    const unsigned char *ids = nn__at(m, c->x);
    nn__vectors v;
    int32_t i, step;
    below.row = m->input[m->row[c->row].input];
    v = nn__vectors_of(m, &below);
    for (i = 0; i < m->run.n; i++)
        for (step = count; step-- > 0;) {
            size_t at = (size_t)i * (size_t)r->t + (size_t)nn__time(r, p, first + step);
            nn__add_vector(m, &v, nn__label(ids, at),
                           d->dx.at + i * d->dx.inner + step * d->dx.outer);
        }
}

/* Steps [first, first + count), a segment. */
static void nn__recurrent_segment_grad(nn_model *m, const nn_cmd *c, const nn__recurrent *r,
                                       nn__pass *p, nn__pass_grad *d, int32_t first,
                                       int32_t count) {
    const float *hidden = r->gru ? p->q : p->z;
    int gathers = !p->x.at && r->gathers, k = p->tensor;
    nn__span x, none = nn__span_of(NULL, 0, 0), dz = nn__span_of(p->z, r->z_row, r->z_step);
    nn__span h = nn__span_of(p->h + (count - 1) * r->h_step, r->h_row, -r->h_step);
    int32_t step;
    if (gathers) nn__gather(m, c, r, p, first, count);
    if (p->saved) { /* computes the segment again */
        p->base = first;
        nn__segment_states(m, r, p, first, 0);
        nn__recurrent_run(m, c, r, p, first, count, none);
    }
    for (step = first + count; step-- > first;) nn__recurrent_step_grad(m, c, r, p, d, step);
    x = p->x;
    if (x.at) {
        x.at += (first + count - 1 - p->x_base) * x.outer;
        x.outer = -x.outer;
        nn__recurrent_weight_grad(m, c, r, k, x, p->z, count);
    }
    nn__recurrent_weight_grad(m, c, r, k + 1, h, r->reset_before ? d->rz : hidden, count);
    if (r->reset_before) {
        h = nn__span_of(d->rh + (ptrdiff_t)(count - 1) * r->units, (ptrdiff_t)r->held * r->units,
                        -r->units);
        nn__recurrent_weight_grad(m, c, r, k + 1, h, p->q, count);
    }
    if (p->biases) nn__recurrent_bias_grad(m, c, r, k + 2, p->z, count);
    if (p->biases > 1) nn__recurrent_bias_grad(m, c, r, k + 3, hidden, count);
    if (gathers) {
        p->x.at = NULL;
        d->dx = nn__span_of(d->room, (ptrdiff_t)count * p->in, p->in);
        if (!(nn__in(m, c)->flags & NN__TRAINS)) return;
    }
    if (!d->dx.at) return;
    h = d->dx;
    if (!gathers) h.at += first * h.outer;
    if (p->backwards) nn__linear_input_grad(m, p->w, NULL, dz, h, m->run.n, count, d->add);
    else /* so that sample and step merge into one run of rows */
        nn__linear_input_grad(m, p->w, NULL, nn__span_of(dz.at, dz.outer, dz.inner),
                              nn__span_of(h.at, h.outer, h.inner), count, m->run.n, d->add);
    if (gathers) nn__scatter(m, c, r, p, d, first, count);
}

static void nn__recurrent_backward(nn_model *m, const nn_cmd *c) {
    nn__recurrent r = nn__recurrent_of(m, c->row, 1);
    int32_t wide = r.ways * r.units, sets = r.layers * r.ways, layer, first, i;
    int64_t state = (int64_t)r.n * r.units, between = nn__min(r.layers - 1, 2) * r.seq;
    int64_t gathered = r.gathers ? (int64_t)r.n * r.held * r.in : 0;
    float *keep = nn__floats(m, c->keep), *kept = keep + sets * (m->tight ? r.saved : r.pass);
    float *grads = nn__floats(m, c->tmp) + 2 * state, *again = grads + between;
    float *room = again + (m->tight ? r.pass : nn__transposed_size(r.gates, r.units));
    float *from = nn__floats(m, c->dy);
    nn__pass_grad d;
    int set;
    NN_MEMSET(&d, 0, sizeof d);
    d.dh = nn__floats(m, c->tmp);
    d.dc = d.dh + state;
    d.packed = m->tight ? NULL : again;
    d.room = room + gathered;
    d.rz = d.room + gathered;
    d.rh = d.rz + r.q;
    d.drh = d.rh + r.held * state;
    for (layer = r.layers; layer-- > 0;) {
        int last = m->rows[c->row].last && layer + 1 == r.layers;
        float *x = layer ? kept + (layer - 1) * r.seq : nn__floats(m, c->x);
        float *to = layer ? grads + layer % 2 * (between - r.seq) : nn__floats(m, c->dx);
        for (set = layer * r.ways; set < (layer + 1) * r.ways; set++) {
            nn__pass p = nn__begin_pass(m, c, &r, set, m->tight ? again : keep + set * r.pass, x);
            float *dy = from + p.backwards * r.units;
            p.rh = d.drh;
            p.room = room;
            if (m->tight) p.saved = keep + set * r.saved;
            else nn__pack_transposed(m, p.w + 1, d.packed);
            NN_MEMSET(d.dh, 0, 8 * (size_t)state);
            for (i = 0; last && i < m->run.n; i++)
                NN_MEMCPY(d.dh + i * r.units, dy + i * wide, 4 * (size_t)r.units);
            d.dy = nn__span_of(last ? NULL : dy, (ptrdiff_t)r.t * wide, wide);
            d.dx = nn__span_of(NULL, (ptrdiff_t)r.t * p.in, p.backwards ? -p.in : p.in);
            if (to) d.dx.at = to + (ptrdiff_t)nn__time(&r, &p, 0) * p.in;
            d.add = set % r.ways != 0;
            for (first = (r.t - 1) / r.segment * r.segment; first >= 0; first -= r.segment)
                nn__recurrent_segment_grad(m, c, &r, &p, &d, first,
                                           nn__min(r.segment, r.t - first));
        }
        if (layer) nn__recurrent_drop(m, c, &r, layer - 1, to);
        from = to;
    }
}
#endif

#define NN__RECURRENT_FIELDS                                                           \
    (NN__F(UNITS) | NN__F(LAYERS) | NN__F(BIDIRECTIONAL) | NN__F(LAST) | NN__F(RATE) | \
     NN__F(NO_BIAS) | NN__F(ONE_BIAS) | NN__F(LR) | NN__F(NO_DECAY))
/* clang-format off */
#define NN__DEFINE_RECURRENT(id, fields)                                                           \
    NN__CONSTANT_BEGIN const nn_op nn_op_##id = {                                                  \
        #id, #id, "weight_ih weight_hh bias_ih bias_hh", fields, 1, 1, 0, NN__RECURRENT_ROLE, 0,   \
        NN__PLAN_ONLY(nn__recurrent_shape), NN__PLAN_ONLY(nn__recurrent_plan),                     \
        nn__recurrent_forward,                                                                     \
        NN__TRAIN_ONLY(nn__recurrent_backward), NULL                                               \
    };                                                                                             \
    NN__CONSTANT_END
/* clang-format on */
NN__DEFINE_RECURRENT(lstm, NN__RECURRENT_FIELDS)
NN__DEFINE_RECURRENT(gru, NN__RECURRENT_FIELDS | NN__F(RESET_BEFORE))
NN__DEFINE_RECURRENT(rnn, NN__RECURRENT_FIELDS | NN__F(ACT))

/* >>losses --------------------------------------------------------------------------------------
   From logits, value and gradient together. A loss per sample (and position) goes to the loss
   buffer; its mean is taken over the whole batch, so micro-batches report the same number. */

/* Bytes of one sample's target. */
static size_t nn__target_size(const nn_model *m) {
    const nn_row *r = &m->row[m->row_count - 1];
    if (m->opts.loss == NN_CROSS_ENTROPY) return 4 * (size_t)(r->dim[0] * r->dim[1]);
    return 4 * (size_t)m->out_size;
}

/* All labels of n samples are outputs of the net; targets of BCE lie in 0..1. */
static int nn__check_targets(const nn_model *m, const void *target, int32_t n) {
    const unsigned char *t = (const unsigned char *)target;
    const nn_row *r = &m->row[m->row_count - 1];
    size_t count = nn__target_size(m) / 4 * (size_t)n, i;
    if (m->opts.loss == NN_CROSS_ENTROPY) {
        for (i = 0; i < count; i++) {
            int32_t label = nn__label(t, i);
            if (label < 0 || label >= r->dim[2])
                return NN__FAIL(&m->opts, NN_ERR_LABEL, "label %d of sample %D is not from 0 to %d",
                                (int)label, (int64_t)(i / (nn__target_size(m) / 4)),
                                (int)r->dim[2] - 1);
        }
    } else if (m->opts.loss == NN_BCE) {
        const float *f = (const float *)target;
        for (i = 0; i < count; i++)
            if (!(f[i] >= 0 && f[i] <= 1))
                return NN__FAIL(&m->opts, NN_ERR_LABEL, "target %D of sample %D is not from 0 to 1",
                                (int64_t)i % m->out_size, (int64_t)(i / (size_t)m->out_size));
    }
    return 0;
}

/* Right answers among n outputs before the last activation; MSE has none. */
static int32_t nn__count_correct(const nn_model *m, const float *z, const unsigned char *target) {
    const nn_row *r = &m->row[m->row_count - 1];
    int32_t correct = 0, i, j, best;
    if (m->opts.loss == NN_BCE) {
        const float *t = (const float *)(const void *)target;
        for (i = 0; i < m->out_size; i++) correct += (z[i] > 0) == (t[i] > 0.5f);
    }
    if (m->opts.loss == NN_CROSS_ENTROPY)
        for (i = 0; i < r->dim[0] * r->dim[1]; i++, z += r->dim[2]) {
            for (best = 0, j = 1; j < r->dim[2]; j++)
                if (z[j] > z[best]) best = j;
            correct += best == nn__label(target, (size_t)i);
        }
    return correct;
}

/* Terms that the mean loss of n samples is over. */
static float nn__loss_terms(const nn_model *m, int32_t n) {
    return (float)n * (float)(nn__target_size(m) / 4);
}

/* Loss of one sample with logits z; grad NULL: value only. */
static float nn__sample_loss(const nn_model *m, const float *z, const unsigned char *target,
                             float *grad, float scale) {
    const nn_row *r = &m->row[m->row_count - 1];
    const float *t = (const float *)(const void *)target;
    float loss = 0;
    int32_t i;
    if (m->opts.loss == NN_MSE) return NN__CALL(m, mse, grad, z, t, m->out_size, scale);
    if (m->opts.loss == NN_BCE) return NN__CALL(m, bce, grad, z, t, m->out_size, scale);
    for (i = 0; i < r->dim[0] * r->dim[1]; i++, z += r->dim[2]) {
        loss += NN__CALL(m, cross_entropy, grad, z, nn__label(target, (size_t)i), r->dim[2], scale);
        if (grad) grad += r->dim[2];
    }
    return loss;
}

static int nn__is_finite(float x) {
    uint32_t bits;
    NN_MEMCPY(&bits, &x, 4);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

/* Losses of this turn's samples into losses[] (and dy), right answers into m->correct. */
static int nn__turn_loss(nn_model *m, const float *z, float *dy, float *losses) {
    float scale = 1.0f / nn__loss_terms(m, m->run.count);
    size_t size = nn__target_size(m);
    int32_t i;
    for (i = 0; i < m->run.n; i++, z += m->out_size) {
        const unsigned char *t = m->run.target + nn__sample_number(m, i) * size;
        losses[i] = nn__sample_loss(m, z, t, dy, scale);
        if (!nn__is_finite(losses[i]))
            return NN__FAIL(&m->opts, NN_ERR_NAN, "the loss of sample %D is not finite",
                            (int64_t)nn__sample_number(m, i));
        m->correct += nn__count_correct(m, z, t);
        if (dy) dy += m->out_size;
    }
    return 0;
}

#ifndef NN_NO_TRAIN
/* >>optim ---------------------------------------------------------------------------------------
   Updates with PyTorch's semantics. Powers of beta are kept as Q63 fractions: 1 - beta^t in float
   is too coarse at small t, and double is not to be had everywhere. */

static uint64_t nn__mul_q63(uint64_t a, uint64_t b) {
    uint64_t al = a & 0xffffffffu, ah = a >> 32, bl = b & 0xffffffffu, bh = b >> 32;
    uint64_t mid = ah * bl + (al * bl >> 32), mid2 = al * bh + (mid & 0xffffffffu);
    return (ah * bh + (mid >> 32) + (mid2 >> 32)) << 1;
}

/* A fraction below one as Q63, exactly (but for bits below 2^-63). */
static uint64_t nn__to_q63(float f) {
    uint32_t bits;
    int shift;
    uint64_t mantissa;
    NN_MEMCPY(&bits, &f, 4);
    shift = (int)(bits >> 23) - 127 - 23 + 63;
    mantissa = (bits & 0x7fffffu) | 0x800000u;
    if (bits >> 23 == 0) return 0;
    return shift >= 0 ? mantissa << shift : shift > -24 ? mantissa >> -shift : 0;
}

/* 1 - q, rounded once: 32 bits and a sticky one are enough, so no 64-bit conversion is linked. */
static float nn__one_minus_q63(uint64_t q) {
    uint64_t rest = ((uint64_t)1 << 63) - q;
    uint32_t high;
    float scale = 4.6566128730773926e-10f; /* 2^-31 */
    if (!rest) return 0.0f;
    for (; !(rest >> 62); rest <<= 1) scale = scale * 0.5f;
    high = (uint32_t)(rest >> 32) | ((uint32_t)rest != 0);
    return (float)high * scale;
}

/* The numbers of this update for row i. */
static nn__step nn__step_of(const nn_model *m, uint32_t i) {
    const nn_opts *o = &m->opts;
    nn__step s;
    float bias1, bias2, factor = m->rows[i].lr != 0 ? m->rows[i].lr : 1.0f;
    s.lr = o->lr * factor;
    s.momentum = o->momentum;
    s.decay = m->rows[i].no_decay ? 0.0f : o->weight_decay;
    s.beta1_rest = 1.0f - o->beta1;
    s.beta2 = o->beta2;
    s.beta2_rest = 1.0f - o->beta2;
    s.eps = o->eps;
    s.rate = s.lr;
    s.root = 1.0f;
    if (o->optimizer != NN_ADAM) return s;
    bias1 = nn__one_minus_q63(m->beta1_power);
    bias2 = nn__sqrt(nn__one_minus_q63(m->beta2_power));
    s.rate = s.lr / bias1;
    if (o->eps_mode == NN_EPS_KERAS) s.rate = s.rate * bias2;
    else s.root = 1.0f / bias2;
    return s;
}

/* count elements of a tensor from first on, as they lie, with their gradient g. */
static void nn__update_part(nn_model *m, const nn_tensor *t, const nn__step *s, uint32_t first,
                            uint32_t count, const float *g) {
    float *p = nn__values(m, t) + first, *state = nn__floats(m, t->state);
    if (state) state += first;
    if (m->opts.optimizer == NN_ADAM) NN__CALL(m, adam, p, g, state, state + t->count, count, s);
    else NN__CALL(m, sgd, p, g, state, count, s);
}

static void nn__update_tensor(nn_model *m, const nn_tensor *t, float *g) {
    nn__step s = nn__step_of(m, t->row);
    nn__sparse list;
    uint32_t units = (uint32_t)t->dim[1];
    int32_t i;
    if (!nn__is_sparse(m, t)) {
        nn__update_part(m, t, &s, 0, t->count, g);
        return;
    }
    list = nn__sparse_at(m, t, g);
    for (i = 0; i < *list.count; i++)
        nn__update_part(m, t, &s, (uint32_t)list.id[i] * units, units,
                        list.vector + (size_t)i * units);
}

/* Counts the step; before anything is updated. */
static void nn__begin_update(nn_model *m) {
    m->step++;
    if (m->opts.optimizer != NN_ADAM) return;
    m->beta1_power = nn__mul_q63(m->beta1_power, nn__to_q63(m->opts.beta1));
    m->beta2_power = nn__mul_q63(m->beta2_power, nn__to_q63(m->opts.beta2));
}

static void nn__update_row(nn_model *m, const nn_cmd *c) {
    const nn_row *r = &m->row[c->row];
    int k;
    for (k = 0; k < r->tensors; k++) {
        const nn_tensor *t = nn__tensor(m, c, k);
        if (t->alias != r->tensor + k || t->grad == NN_AT_NONE) continue;
        nn__update_tensor(m, t, nn__floats(m, t->grad));
    }
    if (m->rows[c->row].op->update && (r->flags & NN__TRAINS)) m->rows[c->row].op->update(m, c);
}

/* Backward of one command; with fuse_update its row's tensors change right after. */
static void nn__backward_row(nn_model *m, const nn_cmd *c) {
    const nn_row *r = &m->row[c->row];
    const nn_op *op = m->rows[c->row].op;
    int fused = m->opts.fuse_update && (r->flags & NN__TRAINS), k;
    for (k = op->fuses; fused && k < r->tensors; k++) {
        const nn_tensor *t = nn__tensor(m, c, k);
        if (t->flags & NN__IS_TRAINED) nn__clear_grad(m, t, nn__grad(m, c, k));
    }
    op->backward(m, c);
    for (k = op->fuses; fused && k < r->tensors; k++) {
        const nn_tensor *t = nn__tensor(m, c, k);
        if (t->flags & NN__IS_TRAINED) nn__update_tensor(m, t, nn__grad(m, c, k));
    }
}
#endif

/* >>run -----------------------------------------------------------------------------------------
   The CPU executes the command list. A run is begun by one of the begin functions and driven by
   nn_run_some; a batch larger than the buffers goes through in turns. */

static int nn__argument(const nn_model *m, int ok, const char *text) {
    if (!m || !m->block) return NN_ERR_CALL;
    (void)text;
    return ok ? 0 : NN__FAIL(&m->opts, NN_ERR_CALL, "%s", text);
}

static size_t nn__sample_bytes(const nn_model *m) {
    return (size_t)m->in_size * (m->rows[0].type == NN_U8 ? 1 : 4);
}

/* Samples of the turn that begins at run.at. The caller's samples are read in place where they lie
 * in a row. */
static void nn__begin_turn(nn_model *m) {
    m->run.n = nn__min(m->micro, m->run.count - m->run.at);
    m->run.sample = (uint32_t)m->run.at;
    if (m->run.data) m->run.x = m->run.data + nn__sample_number(m, 0) * nn__sample_bytes(m);
}

static void nn__begin_run(nn_model *m, const void *data, const void *target, int32_t n) {
    m->run.data = (const unsigned char *)data;
    m->run.target = (const unsigned char *)target;
    m->run.x = m->run.data;
    m->run.features = NULL;
    m->run.y = NULL;
    m->run.dx = NULL;
    m->run.at = m->run.first = 0;
    m->run.period = 0;
    m->run.count = n;
    m->run.step = m->step;
    m->run.carries = m->opts.stateful;
    m->run.exec = NULL;      /* whatever had begun is dropped */
    m->run.forward_done = 0; /* the arena is about to be used */
    m->run.start = 0;
    m->run.pc = 0;
    m->run.end = 0;
    nn__begin_turn(m);
}

/* The row whose value row i's value is, in the inference list. */
static uint32_t nn__root_of(const nn_model *m, uint32_t list, uint32_t count, uint32_t i) {
    uint32_t k;
    for (;;) {
        for (k = list; k < list + count; k++)
            if (m->cmd[k].what == NN__FORWARD && m->row[m->cmd[k].row].fused == i) return i;
        if (!m->row[i].inputs) return i;
        i = m->input[m->row[i].input];
    }
}

/* Is there a value of row i? Not of a convolution with its pool inside, nor before an activation
   that was folded into it. */
static int nn__check_exists(const nn_model *m, uint32_t i) {
    uint32_t by = m->row[i].flags & NN__FOLDED ? m->input[m->row[i].input] : i, use = i;
    if (m->row[i].flags & NN__GATHERED)
        for (use = i + 1; m->input[m->row[use].input] != i;) use++;
    if (m->rows[i].type == NN_I32)
        return NN__FAIL(&m->opts, NN_ERR_CALL, "%R: its output are ids, not numbers", m->rows, i);
    if (m->row[by].fused != by) use = m->row[by].fused;
    else if (m->row[i].act_row != i) use = m->row[i].act_row;
    if (use == i) return 0;
    return NN__FAIL(&m->opts, NN_ERR_CALL,
                    "%R: its output never exists, what follows is computed with it: use %N",
                    m->rows, i, m->rows, use);
}

/* Finds the place where features of a row leave or enter a forward list: its buffer, and the first
   command behind it. to: they leave. */
static int nn__find_cut(const nn_model *m, const char *name, uint32_t list, uint32_t count,
                        uint32_t *at, uint32_t *next, uint32_t *row) {
    int32_t i = name ? nn__find_row(m->rows, m->row_count, name, nn__strlen(name)) : -1;
    uint32_t root, k, j;
    int err;
    if (i < 0) return NN__FAIL(&m->opts, NN_ERR_NAME, "no row is called %s", name ? name : "NULL");
    *row = (uint32_t)i;
    err = nn__check_exists(m, (uint32_t)i);
    if (err) return err;
    root = nn__root_of(m, list, count, (uint32_t)i);
    *at = NN_AT_INPUT;
    *next = list;
    for (k = list; k < list + count; k++)
        if (m->cmd[k].what == NN__FORWARD && m->row[m->cmd[k].row].fused == root) {
            *at = m->cmd[k].y;
            *next = k + 1;
        }
    if (*next < list + count && m->cmd[*next].what == NN__LAST_ACT) ++*next;
    for (j = (uint32_t)i + 1; j < m->row_count; j++)
        for (k = 0; k < m->row[j].inputs; k++) {
            uint32_t in = m->input[m->row[j].input + k];
            if (in < (uint32_t)i && nn__root_of(m, list, count, in) != root)
                return NN__FAIL(&m->opts, NN_ERR_CALL, "%R is not a cut: %R reads %N above it",
                                m->rows, (uint32_t)i, m->rows, j, m->rows, in);
        }
    return 0;
}

/* Copies features of this turn into the buffer of the row where they enter. */
static void nn__enter_features(nn_model *m) {
    size_t size = m->run.feature_size;
    int32_t i;
    if (!m->run.features) return;
    if (m->run.enter == NN_AT_INPUT) {
        m->run.x = (const unsigned char *)(m->run.features + nn__sample_number(m, 0) * size);
        return;
    }
    for (i = 0; i < m->run.n; i++)
        NN_MEMCPY(nn__floats(m, m->run.enter) + (size_t)i * size,
                  m->run.features + nn__sample_number(m, i) * size, size * 4);
}

/* One command of the inference list; the turn's outputs at its end. */
static int nn__exec_infer(nn_model *m) {
    const nn_cmd *c = &m->cmd[m->run.pc];
    if (c->what == NN__FORWARD) m->rows[c->row].op->forward(m, c);
    else nn__apply_act(m, c, nn__floats(m, c->y), (size_t)m->run.n * (size_t)m->out_size);
    if (++m->run.pc < m->run.end) return 0;
    if (m->run.y)
        NN_MEMCPY(m->run.y + (size_t)m->run.at * m->run.leave_size, nn__at(m, m->run.leave),
                  (size_t)m->run.n * m->run.leave_size * 4);
    m->run.at += m->run.n;
    if (m->run.at >= m->run.count) return 0;
    m->run.pc = m->run.start;
    nn__begin_turn(m);
    nn__enter_features(m);
    return 0;
}

/* Buffer of the last row's value in a forward list. */
static uint32_t nn__output_at(const nn_model *m, uint32_t list, uint32_t count) {
    uint32_t k, root = nn__root_of(m, list, count, m->row_count - 1), at = NN_AT_INPUT;
    for (k = list; k < list + count; k++)
        if (m->cmd[k].what == NN__FORWARD && m->row[m->cmd[k].row].fused == root) at = m->cmd[k].y;
    return at;
}

/* Steps of a sample, where it has some. */
static int32_t nn__steps(const nn_model *m) {
    return m->rows[0].type == NN_I32 ? m->row[0].dim[2] : m->row[0].dim[1];
}

/* Lengths of n samples, which only sequences have. */
static int nn__check_lengths(const nn_model *m, const int32_t *lengths, int32_t n) {
    int32_t i;
    if (lengths && !m->row[0].masked)
        return NN__FAIL(&m->opts, NN_ERR_CALL, "lengths: the input %S is no sequence", &m->row[0]);
    for (i = 0; lengths && i < n; i++)
        if (lengths[i] < 0 || lengths[i] > nn__steps(m))
            return NN__FAIL(&m->opts, NN_ERR_LABEL, "length %d of sample %d is not from 0 to %d",
                            (int)lengths[i], (int)i, (int)nn__steps(m));
    return 0;
}

/* Ids of n samples are rows of every table that reads them. x NULL: the samples are features. */
static int nn__check_ids(const nn_model *m, const void *x, int32_t n) {
    const unsigned char *ids = (const unsigned char *)x;
    size_t i, count = (size_t)m->in_size * (size_t)n;
    int32_t most = INT32_MAX;
    uint32_t row;
    if (!x || m->rows[0].type != NN_I32) return 0;
    for (row = 1; row < m->row_count; row++)
        if (m->rows[row].op->role == NN__EMBEDDING_ROLE) most = nn__min(most, m->rows[row].vocab);
    for (i = 0; i < count; i++) {
        int32_t id = nn__label(ids, i);
        if (id < 0 || id >= most)
            return NN__FAIL(&m->opts, NN_ERR_LABEL,
                            "id %d of sample %D, step %D is not from 0 to %d", (int)id,
                            (int64_t)(i / (size_t)m->in_size), (int64_t)(i % (size_t)m->in_size),
                            (int)most - 1);
    }
    return 0;
}

/* What n samples of sequences must be. */
static int nn__check_sequences(const nn_model *m, const void *x, int32_t n) {
    int err = nn__check_ids(m, x, n);
    if (!err) err = nn__check_lengths(m, m->lengths, n);
    if (!err && m->opts.stateful && n > m->opts.batch)
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "n is %d, but there are states of %d samples", (int)n,
                       (int)m->opts.batch);
    return err;
}

/* The arguments of an inference call; names are those of x and y. data: x are samples, not
   features. */
static int nn__check_inference(const nn_model *m, const void *x, const float *y, int n,
                               const char *names, int data) {
    int err = nn__argument(m, (x && y) || n == 0, names);
    if (!err && n < 0) err = NN__FAIL(&m->opts, NN_ERR_CALL, "n is %d, must be 0 or more", n);
    return err ? err : nn__check_sequences(m, data ? x : NULL, n);
}

static void nn__begin_inference(nn_model *m, const void *x, float *y, int n) {
    nn__begin_run(m, x, NULL, n);
    m->run.y = y;
    m->run.exec = nn__exec_infer;
    m->run.end = m->run.turn_end = n ? m->infer_count : 0;
    m->run.leave = nn__output_at(m, 0, m->infer_count);
    m->run.leave_size = (size_t)m->out_size;
}

NNDEF int nn_begin_infer(nn_model *m, const void *x, float *y, int n) {
    int err = nn__check_inference(m, x, y, n, "x or y is NULL", 1);
    if (err) return err;
    nn__begin_inference(m, x, y, n);
    if (n && !m->infer_count) NN_MEMCPY(y, x, (size_t)n * (size_t)m->out_size * 4);
    return 0;
}

NNDEF int nn_run_some(nn_model *m, int k) {
    int64_t left;
    int err = nn__argument(m, 1, "");
    if (!err && k < 0) err = NN__FAIL(&m->opts, NN_ERR_CALL, "k is %d, must be 0 or more", k);
    if (!err) err = nn__argument(m, m->run.exec != NULL, "nothing has begun");
    if (err) return err;
    while (k-- > 0 && m->run.pc < m->run.end) {
        err = m->run.exec(m);
        if (err) {
            m->run.pc = m->run.end = 0;
            m->run.exec = NULL;
            return err;
        }
    }
    if (m->run.pc >= m->run.end) return 0;
    left = (int64_t)m->run.count - m->run.at - m->run.n;
    left = m->run.pc < m->run.turn_end ? (left + m->micro - 1) / m->micro : 0;
    left = left * (m->run.turn_end - m->run.start) + (m->run.end - m->run.pc);
    return (int)nn__min64(left, INT_MAX);
}

static int nn__run_all(nn_model *m) {
    int err = 0;
    while (m->run.pc < m->run.end && !err) err = m->run.exec(m);
    m->run.exec = NULL;
    m->run.pc = m->run.end = 0;
    return err;
}

NNDEF int nn_infer(nn_model *m, const void *x, float *y, int n) {
    int err = nn_begin_infer(m, x, y, n);
    return err ? err : nn__run_all(m);
}

NNDEF int nn_infer_to(nn_model *m, const char *row, const void *x, float *out, int n) {
    uint32_t at, next, i;
    int err = nn__check_inference(m, x, out, n, "x or out is NULL", 1);
    if (!err) err = nn__find_cut(m, row, 0, m->infer_count, &at, &next, &i);
    if (err) return err;
    nn__begin_inference(m, x, out, n);
    m->run.leave = at;
    m->run.leave_size = (size_t)nn__elements(&m->row[i]);
    m->run.end = m->run.turn_end = n ? next : 0;
    if (n && !next && at == NN_AT_INPUT) NN_MEMCPY(out, x, (size_t)n * m->run.leave_size * 4);
    return nn__run_all(m);
}

/* Features that enter behind row i bring no ids, so no mask by ids. */
static int nn__check_mask(const nn_model *m, uint32_t i) {
    uint32_t j;
    for (j = i + 1; j < m->row_count; j++) {
        const nn_row *in = &m->row[m->input[m->row[j].input]];
        int role = m->rows[j].op->role;
        if ((role == NN__RECURRENT_ROLE || role == NN__OVERALL_ROLE) && in->masked >= 2 &&
            in->masked - 2u <= i)
            return NN__FAIL(&m->opts, NN_ERR_CALL,
                            "%R: skips the steps that hold a pad_id, so it needs ids, not features",
                            m->rows, j);
    }
    return 0;
}

NNDEF int nn_infer_from(nn_model *m, const char *row, const float *features, float *y, int n) {
    uint32_t at, next, i;
    int err = nn__check_inference(m, features, y, n, "features or y is NULL", 0);
    if (!err) err = nn__find_cut(m, row, 0, m->infer_count, &at, &next, &i);
    if (!err) err = nn__check_mask(m, i);
    if (err) return err;
    nn__begin_inference(m, features, y, n);
    m->run.data = NULL;
    m->run.features = features;
    m->run.feature_size = (size_t)nn__elements(&m->row[i]);
    m->run.enter = at;
    m->run.start = m->run.pc = n ? next : 0;
    if (n) nn__enter_features(m);
    if (n && next == m->infer_count) NN_MEMCPY(y, features, (size_t)n * m->run.feature_size * 4);
    return nn__run_all(m);
}

/* Adds the next term to a sum in two floats, exactly: the mean does not depend on how the data are
 * split. */
static void nn__add_exactly(float *sum, float *rest, float x) {
    float s = *sum + x, part = s - *sum, lost = s - part, a = *sum - lost, b = x - part;
    float error = a + b;
    *sum = s;
    *rest = *rest + error;
}

NNDEF int nn_eval(nn_model *m, const void *x, const void *target, int n) {
    float sum = 0, rest = 0, *losses;
    int32_t done = 0, i;
    int err = nn__argument(m, x && target, "x or target is NULL");
    if (!err && n < 1) err = NN__FAIL(&m->opts, NN_ERR_CALL, "n is %d, must be 1 or more", n);
    if (!err) err = nn__argument(m, m->opts.loss, "eval needs a loss in the options");
    if (!err) err = nn__check_targets(m, target, n);
    if (!err) err = nn__check_ids(m, x, n);
    if (!err) err = nn__check_lengths(m, m->lengths, n);
    if (err) return err;
    losses = nn__floats(m, m->loss_offset);
    m->correct = 0;
    for (; done < n && !err; done += m->micro) {
        int32_t turn = nn__min(m->micro, n - done);
        const unsigned char *z;
        nn__begin_run(m, x, target, turn);
        m->run.first = done;
        m->run.carries = 0;
        nn__begin_turn(m);
        for (m->run.pc = 0; m->run.pc < m->infer_count; m->run.pc++) {
            const nn_cmd *c = &m->cmd[m->run.pc];
            if (c->what == NN__FORWARD) m->rows[c->row].op->forward(m, c);
        }
        m->run.pc = 0;
        z = nn__at(m, nn__output_at(m, 0, m->infer_count));
        err = nn__turn_loss(m, (const float *)(const void *)z, NULL, losses);
        for (i = 0; i < turn && !err; i++) nn__add_exactly(&sum, &rest, losses[i]);
    }
    sum = sum + rest;
    m->loss = sum / nn__loss_terms(m, n);
    return err;
}

NNDEF int nn_set_lengths(nn_model *m, const int32_t *lengths) {
    int err = nn__argument(m, 1, "");
    if (!err) m->lengths = lengths;
    return err;
}

NNDEF int nn_step(nn_model *m, const void *x, float *y, int n) {
    int err = nn__argument(m, m && m->opts.steps == 1 && m->opts.stateful,
                           "nn_step needs a model built with opts.steps 1 and opts.stateful");
    return err ? err : nn_infer(m, x, y, n);
}

NNDEF int nn_reset(nn_model *m) {
    int err = nn__argument(m, m && m->opts.stateful, "the model was built without opts.stateful");
    if (!err)
        NN_MEMSET(m->block + m->carry_offset, 0,
                  4 * (size_t)m->carry_size * (size_t)m->opts.batch);
    return err;
}

NNDEF size_t nn_state_size(const nn_model *m) {
    return m && m->block ? (size_t)m->carry_size : 0;
}

static int nn__check_state(const nn_model *m, const float *states, int n) {
    int err = nn__argument(m, m && m->opts.stateful, "the model was built without opts.stateful");
    if (!err) err = nn__argument(m, states != NULL, "the states are NULL");
    if (!err && (n < 0 || n > m->opts.batch))
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "n is %d, there are states of %d samples", n,
                       (int)m->opts.batch);
    return err;
}

NNDEF int nn_get_state(const nn_model *m, float *out, int n) {
    int err = nn__check_state(m, out, n);
    if (!err) NN_MEMCPY(out, m->block + m->carry_offset, 4 * nn_state_size(m) * (size_t)n);
    return err;
}

NNDEF int nn_set_state(nn_model *m, const float *states, int n) {
    int err = nn__check_state(m, states, n);
    if (!err) NN_MEMCPY(m->block + m->carry_offset, states, 4 * nn_state_size(m) * (size_t)n);
    return err;
}

#ifndef NN_NO_TRAIN
static uint32_t nn__training_list(const nn_model *m) { return m->infer_count; }

/* One command of the training list, and what stands between its parts. */
static int nn__exec_train(nn_model *m) {
    const nn_cmd *c = &m->cmd[m->run.pc];
    uint32_t list = nn__training_list(m), backward = list + m->forward_count,
             update = backward + m->backward_count;
    float *losses = nn__floats(m, m->loss_offset);
    int err = 0;
    switch (c->what) {
    case NN__FORWARD: m->rows[c->row].op->forward(m, c); break;
    case NN__LOSS:
        err = nn__turn_loss(m, nn__floats(m, c->x), nn__floats(m, c->dy), losses + m->run.at);
        break;
    case NN__BACKWARD: nn__backward_row(m, c); break;
    case NN__ACCUMULATE:
        NN__CALL(m, add, nn__floats(m, c->y), nn__floats(m, c->y), nn__floats(m, c->x),
                 nn__samples(m) * (size_t)nn__elements(&m->row[c->row]));
        break;
    default: nn__update_row(m, c); break;
    }
    if (err) return err;
    m->run.pc++;
    if (m->run.pc == backward) {
        m->run.batch = m->run.n;
        if (m->run.at + m->run.n == m->run.count)
            m->loss =
                NN__CALL(m, sum, losses, (size_t)m->run.count) / nn__loss_terms(m, m->run.count);
        if (m->opts.fuse_update) nn__begin_update(m);
    }
    if (m->run.pc == update && m->run.at + m->run.n < m->run.count) {
        m->run.at += m->run.n;
        m->run.pc = m->run.start;
        nn__begin_turn(m);
        nn__enter_features(m);
    } else if (m->run.pc == update && !m->opts.fuse_update) {
        nn__settle_grad(m);
        if (m->opts.hook)
            err = m->opts.hook(m->opts.hook_user, nn__floats(m, m->grad_offset), m->grad_count);
        if (!err) nn__begin_update(m);
    }
    return err;
}

/* No float of n samples is NaN or infinite: a saturated activation can hide one from the loss, but
   not from the gradient. */
static int nn__check_samples(const nn_model *m, const float *x, size_t size, int32_t n) {
    size_t i;
    if (NN__CALL(m, finite, x, size * (size_t)n)) return 0;
    for (i = 0; i < size * (size_t)n; i++)
        if (!nn__is_finite(x[i]))
            return NN__FAIL(&m->opts, NN_ERR_NAN, "sample %D holds a NaN or an infinity",
                            (int64_t)(i / size));
    return 0;
}

static int nn__check_inputs(const nn_model *m, const void *x, int32_t n) {
    int err = nn__check_sequences(m, x, n);
    if (err || m->rows[0].type != NN_F32) return err;
    return nn__check_samples(m, (const float *)x, (size_t)m->in_size, n);
}

static int nn__training_arguments(nn_model *m, const void *x, const void *target, int n,
                                  int32_t most) {
    int err = nn__argument(m, m && m->opts.train, "the model was built without opts.train");
    if (!err) err = nn__argument(m, x && target, "x or target is NULL");
    if (!err && (n < 1 || n > most))
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "n is %d, the model takes 1 to %d samples", n,
                       (int)most);
    if (!err) err = nn__check_real(&m->opts, NN_ERR_CALL, "opts.lr", m->opts.lr);
    return err ? err : nn__check_targets(m, target, n);
}

/* A step without its checks, for data already looked at. */
static void nn__begin_step(nn_model *m, const void *x, const void *target, int32_t n) {
    uint32_t i;
    for (i = 0; i < m->tensor_count; i++)
        if (m->tensor[i].grad != NN_AT_NONE && m->tensor[i].alias == i)
            m->tensor[i].flags |= NN__STALE;
    m->run.has_grad = 0;
    m->run.accumulated = 0;
    nn__begin_run(m, x, target, n);
    m->correct = 0;
    m->run.exec = nn__exec_train;
    m->run.start = m->run.pc = nn__training_list(m);
    m->run.turn_end = m->run.pc + m->forward_count + m->backward_count;
    m->run.end = m->run.turn_end + m->update_count;
}

/* Where features of a frozen row would enter a step. */
typedef struct nn__entrance {
    uint32_t at, next, row;
} nn__entrance;

static int nn__find_entrance(const nn_model *m, const char *row, nn__entrance *e) {
    int err =
        nn__find_cut(m, row, nn__training_list(m), m->forward_count - 1, &e->at, &e->next, &e->row);
    if (!err && m->opts.input_grad)
        err = NN__FAIL(&m->opts, NN_ERR_CALL,
                       "input_grad: there is no way back from features to the input");
    if (!err && (m->row[e->row].flags & NN__LIVE))
        err = NN__FAIL(&m->opts, NN_ERR_CALL,
                       "%R trains, or reads a row that does: its output is not constant", m->rows,
                       e->row);
    return err ? err : nn__check_mask(m, e->row);
}

/* Lets the step that has begun take features there instead of inputs. */
static void nn__enter(nn_model *m, const nn__entrance *e, const float *features) {
    m->run.data = NULL;
    m->run.features = features;
    m->run.feature_size = (size_t)nn__elements(&m->row[e->row]);
    m->run.enter = e->at;
    m->run.start = m->run.pc = e->next;
    nn__enter_features(m);
}

NNDEF int nn_begin_train(nn_model *m, const void *x, const void *target, int n) {
    int err = nn__training_arguments(m, x, target, n, m ? m->opts.batch : 0);
    if (!err) err = nn__check_inputs(m, x, n);
    if (!err) nn__begin_step(m, x, target, n);
    return err;
}

NNDEF int nn_train(nn_model *m, const void *x, const void *target, int n) {
    int err = nn_begin_train(m, x, target, n);
    return err ? err : nn__run_all(m);
}

NNDEF int nn_train_from(nn_model *m, const char *row, const float *features, const void *target,
                        int n) {
    nn__entrance e;
    int err = nn__training_arguments(m, features, target, n, m ? m->opts.batch : 0);
    if (!err) err = nn__find_entrance(m, row, &e);
    if (!err) err = nn__check_samples(m, features, (size_t)nn__elements(&m->row[e.row]), n);
    if (!err) err = nn__check_sequences(m, NULL, n);
    if (err) return err;
    nn__begin_step(m, features, target, n);
    nn__enter(m, &e, features);
    return nn__run_all(m);
}

NNDEF int nn_forward(nn_model *m, const void *x, const void *target, float *y, int n) {
    uint32_t list, sample;
    float *z;
    int err = nn__argument(m, m && m->forward_count,
                           "the model was built without opts.train or input_grad");
    if (!err) err = nn__argument(m, x != NULL, "x is NULL");
    if (!err)
        err = nn__argument(m, !target || m->opts.loss, "a target needs a loss in the options");
    if (!err && (n < 1 || n > m->micro))
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "n is %d, the model takes 1 to %d samples", n,
                       (int)m->micro);
    if (!err && target) err = nn__check_targets(m, target, n);
    if (!err) err = nn__check_sequences(m, x, n);
    if (err) return err;
    sample = m->run.accumulated;
    nn__begin_run(m, x, target, n);
    m->run.sample = sample;
    m->correct = 0;
    list = nn__training_list(m);
    for (m->run.pc = list; m->run.pc < list + m->forward_count - 1; m->run.pc++)
        m->rows[m->cmd[m->run.pc].row].op->forward(m, &m->cmd[m->run.pc]);
    z = nn__floats(m, m->cmd[m->run.pc].x);
    if (y) {
        nn_cmd last = m->cmd[m->run.pc];
        last.flags = 0;
        NN_MEMCPY(y, z, (size_t)n * (size_t)m->out_size * 4);
        if (m->cmd[m->run.pc].flags & NN__NO_ACT)
            nn__apply_act(m, &last, y, (size_t)n * (size_t)m->out_size);
    }
    m->run.forward_done = 1;
    if (!target) return 0;
    m->run.forward_done = 2;
    err = nn__turn_loss(m, z, nn__floats(m, m->cmd[m->run.pc].dy), nn__floats(m, m->loss_offset));
    m->loss = NN__CALL(m, sum, nn__floats(m, m->loss_offset), (size_t)n) / nn__loss_terms(m, n);
    if (err) m->run.forward_done = 0;
    return err;
}

/* Is there room for the ids of one more nn_forward in every sparse gradient? */
static int nn__check_sparse(const nn_model *m) {
    uint32_t i;
    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *t = &m->tensor[i];
        nn__sparse s;
        if (!nn__is_sparse(m, t) || (t->flags & NN__STALE)) continue;
        s = nn__sparse_at(m, t, nn__floats(m, t->grad));
        if (s.most < (uint32_t)t->dim[0] &&
            *s.count + (int64_t)m->run.n * m->row[t->row].dim[1] > (int64_t)s.most)
            return NN__FAIL(&m->opts, NN_ERR_CALL,
                            "%R: its sparse gradient takes opts.batch samples between calls of "
                            "nn_zero_grad",
                            m->rows, (uint32_t)t->row);
    }
    return 0;
}

NNDEF int nn_backward(nn_model *m, const float *dy, float *dx) {
    uint32_t list, k;
    const nn_cmd *loss;
    int err =
        nn__argument(m, m && m->forward_count && !m->opts.fuse_update,
                     "the model was built without opts.train or input_grad, or with fuse_update");
    if (!err)
        err = nn__argument(
            m, m->run.forward_done == 2 || (dy && m->run.forward_done),
            "nn_backward needs an nn_forward before it, with a target when dy is NULL");
    if (!err) err = nn__argument(m, !dx || m->opts.input_grad, "dx needs opts.input_grad");
    if (!err) err = nn__check_sparse(m);
    if (err) return err;
    list = nn__training_list(m) + m->forward_count;
    loss = &m->cmd[list - 1];
    m->run.dx = dx;
    if (dy) {
        size_t n = nn__samples(m) * (size_t)m->out_size;
        nn_cmd last = *loss;
        NN_MEMCPY(nn__floats(m, loss->dy), dy, n * 4);
        last.flags = 0;
        if (loss->flags &
            NN__NO_ACT) { /* the list leaves the last activation to the loss: do it here */
            nn__apply_act(m, &last, nn__floats(m, loss->x), n);
            nn__apply_act_grad(m, &last, nn__floats(m, loss->dy), nn__floats(m, loss->x), n);
        }
    }
    for (k = list; k < list + m->backward_count; k++) {
        const nn_cmd *c = &m->cmd[k];
        if (c->what == NN__BACKWARD) nn__backward_row(m, c);
        else
            NN__CALL(m, add, nn__floats(m, c->y), nn__floats(m, c->y), nn__floats(m, c->x),
                     nn__samples(m) * (size_t)nn__elements(&m->row[c->row]));
    }
    m->run.batch = m->run.n;
    m->run.has_grad = 1;
    m->run.accumulated += (uint32_t)m->run.n;
    m->run.forward_done = 0;
    return 0;
}

NNDEF int nn_update(nn_model *m) {
    uint32_t k, first;
    int err = nn__argument(m, m && m->opts.train && !m->opts.fuse_update,
                           "the model was built without opts.train, or with fuse_update");
    if (!err) err = nn__argument(m, m->run.has_grad, "nn_update needs an nn_backward before it");
    if (err) return err;
    nn__settle_grad(m);
    nn__begin_update(m);
    m->run.accumulated = 0;
    first = nn__training_list(m) + m->forward_count + m->backward_count;
    for (k = first; k < first + m->update_count; k++) nn__update_row(m, &m->cmd[k]);
    return 0;
}

NNDEF int nn_zero_grad(nn_model *m) {
    int err = nn__argument(m, 1, "");
    if (err) return err;
    m->run.has_grad = 0;
    m->run.accumulated = 0;
    nn__settle_grad(m);
    if (!m->opts.fuse_update) NN_MEMSET(m->block + m->grad_offset, 0, 4 * (size_t)m->grad_count);
    return 0;
}

NNDEF float *nn_flat_grad(nn_model *m, uint32_t *count) {
    int any = m && m->block && m->grad_count && !m->opts.fuse_update;
    uint32_t i;
    for (i = 0; any && i < m->tensor_count; i++) any = !nn__is_sparse(m, &m->tensor[i]);
    if (count) *count = any ? m->grad_count : 0;
    if (any) nn__settle_grad(m);
    return any ? nn__floats(m, m->grad_offset) : NULL;
}
#endif

#ifndef NN_NO_TRAIN
/* >>fit -----------------------------------------------------------------------------------------
   Epochs over a data set, for programs that want no loop of their own. Uses >>run. */

static float nn__nan(void) {
    uint32_t bits = 0x7fc00000u;
    float f;
    NN_MEMCPY(&f, &bits, 4);
    return f;
}

/* Right answers as a fraction of n samples' answers. */
static float nn__accuracy(const nn_model *m, int32_t correct, int32_t n) {
    if (m->opts.loss == NN_MSE) return nn__nan();
    return (float)correct / nn__loss_terms(m, n);
}

static int nn__fit_arguments(nn_model *m, const nn_fit_opts *f) {
    int err = nn__argument(m, f != NULL, "the options of nn_fit are NULL");
    if (!err && f->n < 1)
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "n is %d, must be 1 or more", (int)f->n);
    if (!err)
        err = nn__training_arguments(m, f->x, f->y, nn__min(f->n, m->opts.batch), m->opts.batch);
    if (!err) err = nn__check_targets(m, f->y, f->n);
    if (!err)
        err = nn__argument(m, !m->opts.stateful,
                           "nn_fit takes samples in any order, so not with opts.stateful");
    if (!err) err = nn__check_lengths(m, f->lengths, f->n);
    if (!err) err = nn__check_lengths(m, f->lengths_val, f->n_val);
    if (!err) m->lengths = f->lengths;
    if (!err && !f->from) err = nn__check_inputs(m, f->x, f->n);
    if (!err && f->n_val < 0)
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "n_val is %d, must be 0 or more", (int)f->n_val);
    if (!err && f->n_val)
        err = nn__argument(m, f->x_val && f->y_val && !f->from,
                           "held-out samples are NULL, or given together with from");
    if (!err && !f->n_val)
        err = nn__argument(m, !f->x_val && !f->y_val, "held-out samples are given, but n_val is 0");
    if (!err && f->n_val) err = nn__check_ids(m, f->x_val, f->n_val);
    if (!err && f->epochs < 0) err = nn__argument(m, 0, "epochs is negative");
    return err ? err : f->n_val ? nn__check_targets(m, f->y_val, f->n_val) : 0;
}

/* Step number step of an epoch that began with m->run.epoch = epoch. */
static int nn__fit_step(nn_model *m, const nn_fit_opts *f, const nn__entrance *e, uint32_t epoch,
                        int32_t first) {
    nn__begin_step(m, f->x, f->y, nn__min(m->opts.batch, f->n - first));
    m->run.first = first;
    m->run.epoch = epoch;
    m->run.period = f->no_shuffle ? 0 : (uint32_t)f->n;
    nn__begin_turn(m);
    if (f->from) nn__enter(m, e, (const float *)f->x);
    return nn__run_all(m);
}

#ifndef NN_NO_STDIO
/* A line that is written over on a terminal; elsewhere one line an epoch. */
static void nn__print_progress(const nn_progress *p) {
    int terminal = NN_TERMINAL();
    if (!p->epoch_end && (!terminal || (p->step % 16 && p->step < p->steps))) return;
    printf("%sepoch %d/%d  step %d/%d  loss %.4f", terminal ? "\r" : "", (int)p->epoch,
           (int)p->epochs, (int)p->step, (int)p->steps, (double)p->loss);
    if (p->accuracy >= 0) printf("  accuracy %.2f%%", 100.0 * (double)p->accuracy);
    if (p->loss_val >= 0) printf("  validation loss %.4f", (double)p->loss_val);
    if (p->accuracy_val >= 0) printf("  accuracy %.2f%%", 100.0 * (double)p->accuracy_val);
    if (p->epoch_end) printf("\n");
    fflush(stdout);
}
#else
static void nn__print_progress(const nn_progress *p) { (void)p; }
#endif

static int nn__fit(nn_model *m, const nn_fit_opts *f) {
    nn_progress p;
    int32_t first, i;
    nn__entrance e = { 0, 0, 0 };
    int err = nn__fit_arguments(m, f);
    if (!err && f->from) err = nn__find_entrance(m, f->from, &e);
    if (!err && f->from)
        err = nn__check_samples(m, (const float *)f->x, (size_t)nn__elements(&m->row[e.row]), f->n);
    if (err) return err;
    NN_MEMSET(&p, 0, sizeof p);
    p.model = m;
    p.epochs = nn__or1(f->epochs);
    p.steps = (f->n - 1) / m->opts.batch + 1;
    for (p.epoch = 1; p.epoch <= p.epochs; p.epoch++) {
        float sum = 0, rest = 0;
        int32_t correct = 0;
        uint32_t key =
            (uint32_t)m->step; /* so that an epoch after resuming is shuffled like the one missed */
        p.loss_val = p.accuracy_val = nn__nan();
        p.epoch_end = 0;
        for (p.step = 1, first = 0; first < f->n; p.step++, first += m->opts.batch) {
            float mean;
            err = nn__fit_step(m, f, &e, key, first);
            if (err) return err;
            for (i = 0; i < m->run.count; i++)
                nn__add_exactly(&sum, &rest, nn__floats(m, m->loss_offset)[i]);
            correct += m->correct;
            mean = sum + rest;
            p.loss = mean / nn__loss_terms(m, first + m->run.count);
            p.accuracy = nn__accuracy(m, correct, first + m->run.count);
            if (!f->quiet) nn__print_progress(&p);
            if (f->progress && f->progress(f->user, &p))
                return NN__FAIL(&m->opts, NN_ERR_CANCELLED, "cancelled in epoch %d", (int)p.epoch);
        }
        p.step = p.steps;
        p.epoch_end = 1;
        if (f->n_val) {
            m->lengths = f->lengths_val;
            err = nn_eval(m, f->x_val, f->y_val, f->n_val);
            if (err) return err;
            m->lengths = f->lengths;
            p.loss_val = m->loss;
            p.accuracy_val = nn__accuracy(m, m->correct, f->n_val);
        }
        if (!f->quiet) nn__print_progress(&p);
        if (f->progress && f->progress(f->user, &p))
            return NN__FAIL(&m->opts, NN_ERR_CANCELLED, "cancelled after epoch %d", (int)p.epoch);
    }
    return 0;
}

NNDEF int nn_fit(nn_model *m, const nn_fit_opts *f) {
    const int32_t *lengths = m ? m->lengths : NULL;
    int err = nn__fit(m, f);
    if (m) m->lengths = lengths;
    return err;
}
#endif

/* >>data ----------------------------------------------------------------------------------------
   Tensors by name, in PyTorch's order; snapshots; initial values. */

/* What can be copied of a tensor. */
enum { NN__PARAM, NN__MOMENT1, NN__MOMENT2, NN__GRADIENT };

/* Floats of tensor t as they lie, or NULL when it has none of that part. */
static float *nn__part(const nn_model *m, const nn_tensor *t, int part) {
    if (part == NN__PARAM) return nn__values(m, t);
    if (part == NN__GRADIENT) return nn__floats(m, t->grad);
    if (t->state == NN_AT_NONE || (part == NN__MOMENT2 && m->opts.optimizer != NN_ADAM))
        return NULL;
    return nn__floats(m, t->state) + (part == NN__MOMENT2 ? t->count : 0);
}

/* Optimizer state is called PREFIX/NAME. */
static const char *nn__part_prefix(const nn_model *m, int part) {
    if (part == NN__MOMENT1) return m->opts.optimizer == NN_ADAM ? "opt.m/" : "opt.mom/";
    return part == NN__MOMENT2 ? "opt.v/" : "";
}

/* Splits name[0..n) into part and tensor; -1: no such tensor, or it has no such part. */
static int32_t nn__find_part(const nn_model *m, const char *name, size_t n, int *part) {
    int k;
    int32_t t;
    *part = NN__PARAM;
    for (k = NN__MOMENT1; k <= NN__MOMENT2; k++) {
        const char *prefix = nn__part_prefix(m, k);
        size_t length = nn__strlen(prefix);
        if (n <= length || !nn__is(prefix, name, length)) continue;
        name += length;
        n -= length;
        *part = k;
        break;
    }
    t = nn__find_tensor(m, name, n);
    return t >= 0 && nn__part(m, &m->tensor[t], *part) ? t : -1;
}

static int nn__find_argument(const nn_model *m, const char *name, const float *p, size_t count,
                             int32_t *t, int *part) {
    int err = nn__argument(m, name && p, "name or buffer is NULL");
    if (err) return err;
    *t = nn__find_part(m, name, nn__strlen(name), part);
    if (*t < 0) return NN__FAIL(&m->opts, NN_ERR_NAME, "no tensor is called %s", name);
    if (count != m->tensor[*t].count)
        return NN__FAIL(&m->opts, NN_ERR_CALL, "%s has %D elements, not %D", name,
                        (int64_t)m->tensor[*t].count, (int64_t)count);
    return 0;
}

static void nn__copy_out(const nn_model *m, const nn_tensor *t, const float *from, float *out) {
    uint32_t i;
    for (i = 0; i < t->count; i++) out[i] = from[nn__place(t, m->rows[t->row].groups, i)];
}

NNDEF int nn_get(const nn_model *m, const char *name, float *out, size_t count) {
    int32_t t;
    int part, err = nn__find_argument(m, name, out, count, &t, &part);
    if (!err) nn__copy_out(m, &m->tensor[t], nn__part(m, &m->tensor[t], part), out);
    return err;
}

NNDEF const void *nn_get_aux(const nn_model *m, const char *name, size_t *size) {
    const nn_aux *a = m && name ? m->opts.aux : NULL;
    while (a && a->name && !nn__same(a->name, name)) a++;
    if (size) *size = a && a->name ? a->size : 0;
    return a && a->name ? a->bytes : NULL;
}

static void nn__copy_sparse(const nn_model *m, const nn_tensor *t, float *out) {
    nn__sparse s = nn__sparse_at(m, t, nn__floats(m, t->grad));
    size_t units = (size_t)t->dim[1];
    int32_t i;
    NN_MEMSET(out, 0, 4 * (size_t)t->count);
    for (i = 0; i < *s.count; i++)
        NN_MEMCPY(out + (size_t)s.id[i] * units, s.vector + (size_t)i * units, 4 * units);
}

NNDEF int nn_get_grad(const nn_model *m, const char *name, float *out, size_t count) {
    int32_t t;
    int part, err = nn__find_argument(m, name, out, count, &t, &part);
    if (err) return err;
    if (part != NN__PARAM || m->tensor[t].grad == NN_AT_NONE)
        return NN__FAIL(&m->opts, NN_ERR_CALL, "%s has no gradient (frozen, or fuse_update)", name);
    if (m->tensor[m->tensor[t].alias].flags & NN__STALE) NN_MEMSET(out, 0, 4 * count);
    else if (nn__is_sparse(m, &m->tensor[t])) nn__copy_sparse(m, &m->tensor[t], out);
    else nn__copy_out(m, &m->tensor[t], nn__part(m, &m->tensor[t], NN__GRADIENT), out);
    return 0;
}

NNDEF int nn_set(nn_model *m, const char *name, const float *values, size_t count) {
    int32_t t;
    uint32_t i;
    float *to;
    int part, err = nn__find_argument(m, name, values, count, &t, &part);
    if (err) return err;
    if (m->tensor[t].flags & (NN__IMAGE | NN__PARENT))
        return NN__FAIL(&m->opts, NN_ERR_CALL, "%s is read-only here (in_place, or a clone's)",
                        name);
    to = nn__part(m, &m->tensor[t], part);
    for (i = 0; i < count; i++)
        to[nn__place(&m->tensor[t], m->rows[m->tensor[t].row].groups, i)] = values[i];
    return 0;
}

/* The tensors that training changes lie together: [*first, *end) of the block. */
static void nn__moving_bytes(const nn_model *m, uint32_t *first, uint32_t *end) {
    uint32_t t;
    *first = *end = m->moves_end;
    for (t = 0; t < m->tensor_count; t++)
        if ((m->tensor[t].flags & NN__MOVES) && m->tensor[t].offset < *first)
            *first = m->tensor[t].offset;
}

NNDEF uint64_t nn_digest(const nn_model *m) {
    uint64_t h = m && m->block ? 0xcbf29ce484222325u : 0;
    uint32_t t, i, k;
    for (t = 0; h && t < m->tensor_count; t++) {
        const nn_tensor *own = &m->tensor[t];
        const float *v = nn__values(m, own);
        for (i = 0; own->alias == t && i < own->count; i++) {
            uint32_t bits = nn__bits(v[nn__place(own, m->rows[own->row].groups, i)]);
            if ((bits & 0x7fffffffu) > NN__INF_BITS) bits = NN__NAN_BITS;
            for (k = 0; k < 4; k++, bits >>= 8) h = (h ^ (bits & 255)) * 0x100000001b3u;
        }
    }
    return h;
}

NNDEF size_t nn_snapshot_size(const nn_model *m) {
    uint32_t first, end;
    if (!m || !m->block) return 0;
    nn__moving_bytes(m, &first, &end);
    return end - first;
}

static int nn__check_snapshot(const nn_model *m, const void *buffer, size_t size) {
    int err = nn__argument(m, buffer != NULL, "the buffer is NULL");
    if (!err && size < nn_snapshot_size(m))
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "the buffer has %D bytes, a snapshot %D",
                       (int64_t)size, (int64_t)nn_snapshot_size(m));
    return err;
}

NNDEF int nn_snapshot(const nn_model *m, void *buffer, size_t size) {
    uint32_t first, end;
    int err = nn__check_snapshot(m, buffer, size);
    if (err) return err;
    nn__moving_bytes(m, &first, &end);
    NN_MEMCPY(buffer, m->block + first, end - first);
    return 0;
}

NNDEF int nn_rollback(nn_model *m, const void *buffer, size_t size) {
    uint32_t first, end;
    int err = nn__check_snapshot(m, buffer, size);
    if (err) return err;
    nn__moving_bytes(m, &first, &end);
    NN_MEMCPY(m->block + first, buffer, end - first);
    return 0;
}

/* Initial values of tensor i, a function of the seed and its canonical indices. */
static void nn__init_tensor(nn_model *m, uint32_t i) {
    const nn_tensor *t = &m->tensor[i], *weight = &m->tensor[m->row[t->row].tensor];
    const nn_layer *row = &m->rows[t->row];
    float *p = nn__values(m, t), fan_in, bound, fill = 0;
    uint32_t e;
    int role = row->op->role;
    if (weight->ndim == 1) { /* normalization: weight and running_var 1, bias and running_mean 0 */
        fill = t->suffix == 0 || t->suffix == 3 ? 1.0f : 0.0f;
        for (e = 0; e < t->count; e++) p[e] = fill;
        return;
    }
    if (t->ndim == 1 && m->opts.init == NN_INIT_KERAS) {
        NN_MEMSET(p, 0, 4 * (size_t)t->count);
        return;
    }
    if (role == NN__RECURRENT_ROLE && m->opts.init == NN_INIT_KERAS) weight = t;
    fan_in = (float)(weight->count / (uint32_t)weight->dim[0]);
    if (role == NN__EMBEDDING_ROLE) {
        bound = m->opts.init == NN_INIT_KERAS ? 0.05000000074505806f : 1.7320507764816284f;
    } else if (m->opts.init == NN_INIT_KERAS) {
        float fans = fan_in + (float)(weight->count / (uint32_t)weight->dim[1]);
        bound = 6.0f / fans;
        bound = nn__sqrt(bound);
    } else {
        bound = 1.0f / nn__sqrt(role == NN__RECURRENT_ROLE ? (float)row->units : fan_in);
    }
    NN__CALL(m, uniform, p, t, row->groups, nn__key(m->opts.seed, 0x1417, i), bound);
    if (row->pad_id && m->opts.init == NN_INIT_PYTORCH)
        NN_MEMSET(p + (size_t)(row->pad_id - 1) * (size_t)row->units, 0, 4 * (size_t)row->units);
}

/* Copies a canonical float32 image of all tensors, but for those used in place. */
static void nn__init_from_image(nn_model *m, const unsigned char *image) {
    uint32_t i, e;
    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *t = &m->tensor[i];
        const unsigned char *from = image + nn__image_offset(m, i);
        float *p;
        if (t->alias != i || (t->flags & NN__IMAGE)) continue;
        p = nn__values(m, t);
        for (e = 0; e < t->count; e++)
            NN_MEMCPY(&p[nn__place(t, m->rows[t->row].groups, e)], from + 4 * (size_t)e, 4);
    }
}

/* Training has not begun. */
static void nn__reset_state(nn_model *m) {
    m->beta1_power = m->beta2_power = (uint64_t)1 << 63;
    NN_MEMSET(m->block + m->grad_offset, 0, m->state_offset - m->grad_offset);
    NN_MEMSET(m->block + m->state_offset, 0, 4 * (size_t)m->state_count);
    NN_MEMSET(m->block + m->carry_offset, 0, 4 * (size_t)m->carry_size * (size_t)m->opts.batch);
}

NNDEF void nn_plan_init(nn_model *m) {
    nn__reset_state(m);
    nn__init_from_image(m, m->image);
}

NNDEF int nn_open(nn_model *m, const nn_plan *p, void *memory, size_t size) {
    if (!m || !p || !memory) return NN_ERR_CALL;
    NN_MEMSET(m, 0, sizeof *m);
    if (size < p->memory) return NN_ERR_MEMORY;
    if (nn__misaligned(memory, NN_ALIGNMENT) || nn__misaligned(p->weights, 4)) return NN_ERR_ALIGN;
    m->opts = p->opts;
    m->rows = p->rows;
    m->block = (unsigned char *)memory;
    m->block_size = p->memory;
    m->image = (const unsigned char *)p->weights;
    m->kernels = nn__find_kernels(NULL);
    m->row = (nn_row *)(uintptr_t)p->row; /* only tensors are written to, and only in training */
    m->input = (uint16_t *)(uintptr_t)p->input;
    m->tensor = (nn_tensor *)(uintptr_t)p->tensor;
    m->cmd = (nn_cmd *)(uintptr_t)p->cmd;
    m->row_count = p->row_count;
    m->input_count = p->input_count;
    m->tensor_count = p->tensor_count;
    m->infer_count = p->infer_count;
    m->forward_count = p->forward_count;
    m->backward_count = p->backward_count;
    m->update_count = p->update_count;
    m->grad_offset = p->grad_offset;
    m->grad_count = p->grad_count;
    m->state_offset = p->state_offset;
    m->state_count = p->state_count;
    m->moves_end = p->moves_end;
    m->loss_offset = p->loss_offset;
    m->carry_offset = p->carry_offset;
    m->carry_size = p->carry_size;
    m->micro = p->micro;
    m->tight = p->tight;
    m->in_size = p->in_size;
    m->out_size = p->out_size;
    NN_MEMSET(memory, 0, p->memory);
    if (p->init) p->init(m);
    return 0;
}

/* Values, gradients and state of a model whose block was just laid out. */
static int nn__init_values(nn_model *m) {
    int64_t size = nn__image_offset(m, m->tensor_count);
    uint32_t i;
    if (m->opts.weights && m->opts.weights_size != (uint64_t)size)
        return NN__FAIL(&m->opts, NN_ERR_OPTION, "weights_size: %D bytes, the rows need %D",
                        (int64_t)m->opts.weights_size, size);
    if (m->opts.weights && size > UINT32_MAX)
        return NN__FAIL(&m->opts, NN_ERR_OPTION, "weights: more than 4 GiB");
    if (!m->opts.weights && m->opts.weights_size)
        return NN__FAIL(&m->opts, NN_ERR_OPTION, "weights_size is %D, but weights is NULL",
                        (int64_t)m->opts.weights_size);
    nn__reset_state(m);
    if (m->opts.weights) {
        m->image = (const unsigned char *)m->opts.weights;
        nn__init_from_image(m, m->image);
        return 0;
    }
    for (i = 0; i < m->tensor_count; i++)
        if (m->tensor[i].alias == i && !(m->tensor[i].flags & (NN__IMAGE | NN__PARENT)))
            nn__init_tensor(m, i);
    return 0;
}

NNDEF void nn_free(nn_model *m) {
    if (!m) return;
    NN_FREE(m->owned);
    NN_FREE(m->owned_file);
    NN_MEMSET(m, 0, sizeof *m);
}

#ifndef NN_NO_PLANNER
/* Lays out and fills a model; on error frees it. */
static int nn__build(nn_model *m, const nn__source *s, const nn_opts *o) {
    int64_t total;
    int err;
    if (!m) return NN__FAIL(o, NN_ERR_CALL, "m is NULL");
    if (o && o->resume && !s->file) {
        NN_MEMSET(m, 0, sizeof *m);
        return NN__FAIL(o, NN_ERR_OPTION, "resume: only nn_load resumes");
    }
    total = nn__plan(m, s, o, 1);
    err = total < 0 ? (int)total : 0;
    if (!err && m->opts.in_place && !m->opts.weights && !s->src && !s->file) {
        uint32_t i;
        for (i = 0; i < m->tensor_count; i++)
            if (m->tensor[i].flags & NN__IMAGE)
                err = NN__FAIL(o, NN_ERR_OPTION,
                               "in_place: there are no weights to use where they lie");
    }
    if (!err && !s->file) err = nn__init_values(m);
    if (err) nn_free(m);
    return err;
}

static nn__source nn__source_rows(const nn_layer *rows) {
    nn__source s;
    NN_MEMSET(&s, 0, sizeof s);
    s.rows = rows;
    return s;
}

/* A source of text[0..size), or an error in *err. */
static nn__source nn__source_text(const char *text, size_t size, const nn_opts *o, int *err) {
    nn__source s = nn__source_rows(NULL);
    int32_t rows =
        text ? nn__count_text_rows(o, text, size) : NN__FAIL(o, NN_ERR_ROW, "text is NULL");
    *err = rows < 0 ? rows : 0;
    s.text = text;
    s.text_size = size;
    s.text_rows = rows;
    s.parse = nn__parse_rows;
    return s;
}

NNDEF int nn_build(nn_model *m, const nn_layer *rows, const nn_opts *o) {
    nn__source s = nn__source_rows(rows);
    return nn__build(m, &s, o);
}

NNDEF int nn_build_text(nn_model *m, const char *text, const nn_opts *o) {
    int err;
    nn__source s = nn__source_text(text, text ? nn__strlen(text) : 0, o, &err);
    if (err && m) NN_MEMSET(m, 0, sizeof *m);
    return err ? err : nn__build(m, &s, o);
}

NNDEF int64_t nn_memory(const nn_layer *rows, const nn_opts *o) {
    nn__source s = nn__source_rows(rows);
    nn_model m;
    return nn__plan(&m, &s, o, 0);
}

NNDEF int64_t nn_memory_text(const char *text, const nn_opts *o) {
    int err;
    nn__source s = nn__source_text(text, text ? nn__strlen(text) : 0, o, &err);
    nn_model m;
    return err ? err : nn__plan(&m, &s, o, 0);
}

NNDEF int nn_clone(nn_model *m, const nn_model *src, const nn_opts *o) {
    nn__source s = nn__source_rows(src ? src->rows : NULL);
    uint32_t i, e;
    int err;
    if (!m || m == src) return NN__FAIL(o, NN_ERR_CALL, "m is NULL, or src itself");
    NN_MEMSET(m, 0, sizeof *m);
    if (!src || !src->block) return NN__FAIL(o, NN_ERR_CALL, "src is NULL or not built");
    if (o && o->weights)
        return NN__FAIL(o, NN_ERR_OPTION, "weights: a clone has those of its model");
    s.src = src;
    err = nn__build(m, &s, o);
    if (err) return err;
    m->image = src->image;
    m->parent = src->parent ? src->parent : src->block;
    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *t = &m->tensor[i], *from = &src->tensor[i];
        int32_t groups = m->rows[t->row].groups;
        if (t->alias != i || (t->flags & (NN__IMAGE | NN__PARENT))) continue;
        for (e = 0; e < t->count; e++)
            nn__values(m, t)[nn__place(t, groups, e)] =
                nn__values(src, from)[nn__place(from, groups, e)];
    }
    return 0;
}
#endif

/* >>file ----------------------------------------------------------------------------------------
   Model files (>>format). The reader trusts nothing: sizes are compared before they are added, and
   the checks run in the order of their error codes. Uses >>text and >>data. */

/* CRC-32 (ISO-HDLC), four bits at a time: 64 bytes of table. */
static uint32_t nn__crc32(uint32_t crc, const void *bytes, size_t n) {
    static const uint32_t table[16] = { 0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
                                        0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c };
    const unsigned char *p = (const unsigned char *)bytes;
    crc = ~crc;
    while (n--) {
        crc ^= *p++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

#define NN__CRC_AT 37 /* of the eight digits */
#define NN__HEADER_MAX (1u << 20)

/* Where a file's bytes go: counted, summed, and written when write is given; in pieces of up to 64
 * bytes. */
typedef struct nn__sink {
    nn_write_fn *write;
    void *user;
    int64_t count;
    uint32_t crc;
    int failed;
    int64_t failed_at;
    size_t held;
    unsigned char hold[64];
} nn__sink;

static void nn__flush(nn__sink *s) {
    s->crc = nn__crc32(s->crc, s->hold, s->held);
    if (s->write && !s->failed && s->held) {
        s->failed = s->write(s->user, s->hold, s->held) != 0;
        if (s->failed) s->failed_at = s->count - (int64_t)s->held;
    }
    s->held = 0;
}

static void nn__sink_bytes(void *sink, const char *bytes, size_t n) {
    nn__sink *s = (nn__sink *)sink;
    while (n--) {
        s->count++;
        s->hold[s->held++] = (unsigned char)*bytes++;
        if (s->held == sizeof s->hold) nn__flush(s);
    }
}

/* The options a training run goes on with, and its counters. */
static void nn__put_hex64(nn__text *t, const char *key, uint64_t v) {
    nn__puts(t, key);
    nn__putx(t, (uint32_t)(v >> 32));
    nn__putx(t, (uint32_t)v);
}

static void nn__put_real(nn__text *t, const char *key, float v) {
    uint32_t bits;
    NN_MEMCPY(&bits, &v, 4);
    nn__puts(t, key);
    nn__putx(t, bits);
}

static void nn__put_training(nn__text *t, const nn_model *m) {
    const nn_opts *o = &m->opts;
    nn__puts(t, "loss=");
    nn__putd(t, o->loss);
    nn__puts(t, " opt=");
    nn__putd(t, o->optimizer);
    nn__puts(t, " epsmode=");
    nn__putd(t, o->eps_mode);
    nn__put_real(t, " lr=x", o->lr);
    nn__put_real(t, " mom=x", o->momentum);
    nn__put_real(t, " b1=x", o->beta1);
    nn__put_real(t, " b2=x", o->beta2);
    nn__put_real(t, " eps=x", o->eps);
    nn__put_real(t, " wd=x", o->weight_decay);
    nn__put_hex64(t, " seed=", o->seed);
    nn__put_hex64(t, " t=", m->step);
    nn__put_hex64(t, " b1t=", m->beta1_power);
    nn__put_hex64(t, " b2t=", m->beta2_power);
    nn__puts(t, " train="); /* the last: it may hold spaces */
    nn__puts(t, o->train ? o->train : "");
}

/* Is 2^align the alignment of size, 2^6 being the most? */
static int nn__aligns(int64_t size, int align) {
    return (size & -size) >= 1 << align && (align == 6 || size % (2 << align) != 0);
}

/* Dimension d of an entry's shape in the header, and what follows the last. */
static void nn__put_dim(nn__text *t, int d, int32_t dim) {
    if (d) nn__put(t, ",", 1);
    nn__putd(t, dim);
}

static void nn__put_offsets(nn__text *t, int64_t from, int64_t size) {
    nn__puts(t, "],\"data_offsets\":[");
    nn__putd(t, from);
    nn__put(t, ",", 1);
    nn__putd(t, from + size);
    nn__puts(t, "]}");
}

/* Calls for every tensor of the file in its order: by falling alignment of its size, then part,
 * then row; the application's last. */
static int64_t nn__file_entries(const nn_model *m, int with_training, nn__text *header,
                                nn__sink *data) {
    const nn_aux *a;
    int64_t offset = 0;
    int align, part;
    uint32_t i, e;
    for (align = 6; align >= 0; align--) {
        for (part = NN__PARAM; part <= (with_training ? NN__MOMENT2 : NN__PARAM); part++)
            for (i = 0; i < m->tensor_count; i++) {
                const nn_tensor *t = &m->tensor[i];
                const float *from = nn__part(m, t, part);
                int64_t size = 4 * (int64_t)t->count;
                int d;
                if (t->alias != i || !from || !nn__aligns(size, align)) continue;
                if (header) {
                    nn__puts(header, ",\"");
                    nn__puts(header, nn__part_prefix(m, part));
                    nn__put_tensor_name(header, m, i);
                    nn__puts(header, "\":{\"dtype\":\"F32\",\"shape\":[");
                    for (d = 0; d < t->ndim; d++) nn__put_dim(header, d, t->dim[d]);
                    nn__put_offsets(header, offset, size);
                }
                for (e = 0; data && e < t->count; e++) {
                    unsigned char le[4];
                    uint32_t bits;
                    NN_MEMCPY(&bits, &from[nn__place(t, m->rows[t->row].groups, e)], 4);
                    nn__put32(le, bits);
                    nn__sink_bytes(data, (const char *)(const void *)le, 4);
                }
                offset += size;
            }
        for (a = m->opts.aux; a && a->name; a++) {
            if (!nn__aligns((int64_t)a->size, align)) continue;
            if (header) {
                nn__puts(header, ",\"aux.");
                nn__puts(header, a->name);
                nn__puts(header, "\":{\"dtype\":\"U8\",\"shape\":[");
                nn__put_dim(header, 0, (int32_t)a->size);
                nn__put_offsets(header, offset, (int64_t)a->size);
            }
            if (data) nn__sink_bytes(data, (const char *)a->bytes, a->size);
            offset += (int64_t)a->size;
        }
    }
    return offset;
}

/* The whole file; header_size is what stands in its first eight bytes. */
static void nn__put_file(const nn_model *m, int with_training, uint32_t crc, uint32_t header_size,
                         nn__sink *s, int with_data) {
    unsigned char size[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    nn__text t = nn__text_to(NULL, 0);
    t.sink = nn__sink_bytes;
    t.user = s;
    nn__put32(size, header_size);
    nn__sink_bytes(s, (const char *)(const void *)size, 8);
    nn__puts(&t, "{\"__metadata__\":{\"nn.crc32\":\"");
    if (crc) nn__putx(&t, crc);
    else nn__puts(&t, "00000000");
    nn__puts(&t, "\",\"nn.version\":\"" NN_FORMAT_VERSION "\",\"nn.kind\":\"");
    nn__puts(&t, with_training ? "train" : "model");
    nn__puts(&t, "\",\"nn.graph\":\"");
    nn__put_rows(&t, m->rows);
    if (with_training) {
        nn__puts(&t, "\",\"nn.train\":\"");
        nn__put_training(&t, m);
    }
    nn__puts(&t, "\",\"format\":\"pt\"}");
    nn__file_entries(m, with_training, &t, NULL);
    nn__put(&t, "}", 1);
    if (!with_data) return;
    while (s->count < 8 + (int64_t)header_size) nn__put(&t, " ", 1);
    nn__file_entries(m, with_training, NULL, s);
    nn__flush(s);
}

NNDEF int64_t nn_save(const nn_model *m, int with_training, nn_write_fn *write, void *user) {
    nn__sink s;
    int64_t header;
    uint32_t crc;
    int err = nn__argument(m, 1, "");
    if (err) return err;
    NN_MEMSET(&s, 0, sizeof s);
    nn__put_file(m, with_training, 0, 0, &s, 0);
    header = nn__round_up(s.count, 64) - 8;
    if (header > (int64_t)NN__HEADER_MAX)
        return NN__FAIL(&m->opts, NN_ERR_IO,
                        "the header would take %D bytes, more than a file may have", header);
    NN_MEMSET(&s, 0, sizeof s);
    nn__put_file(m, with_training, 0, (uint32_t)header, &s, 1);
    if (!write) return s.count;
    crc = s.crc;
    NN_MEMSET(&s, 0, sizeof s);
    s.write = write;
    s.user = user;
    nn__put_file(m, with_training, crc, (uint32_t)header, &s, 1);
    if (s.failed)
        return NN__FAIL(&m->opts, NN_ERR_IO, "writing failed at byte %D of %D", s.failed_at,
                        s.count);
    return s.count;
}

NNDEF int nn_write_memory(void *user, const void *bytes, size_t size) {
    nn_memory_writer *f = (nn_memory_writer *)user;
    if (!f || f->size > f->capacity || size > f->capacity - f->size) return -1;
    NN_MEMCPY((unsigned char *)f->bytes + f->size, bytes, size);
    f->size += size;
    return 0;
}

/* A file being read: the strict JSON of its header between at and end. */
typedef struct nn__reader {
    const nn_opts *o;
    const char *at, *end;
    const unsigned char *image, *data;
    int64_t data_size, next; /* bytes of tensors; where the next must begin */
    const char *graph, *train;
    size_t graph_size, train_size;
    int ours, is_training;
    int32_t tensors;
} nn__reader;

/* One tensor of the file. */
typedef struct nn__entry {
    const char *name, *dtype;
    size_t name_size, dtype_size;
    int32_t dim[6];
    int ndim, bytes; /* bytes of an element */
    int64_t begin, end;
} nn__entry;

/* The sentence of an error at the reader's place. */
static int nn__file_fail(const nn__reader *r, int code, const char *text) {
    (void)text;
    return NN__FAIL(r->o, code, "byte %D of the file: %s",
                    (int64_t)(r->at - (const char *)(const void *)r->image), text);
}

static int nn__entry_fail(const nn__reader *r, const nn__entry *e, int code, const char *text) {
    char name[NN__NAME_MAX + 1];
    size_t n = e->name_size < NN__NAME_MAX ? e->name_size : NN__NAME_MAX;
    NN_MEMCPY(name, e->name, n);
    name[n] = 0;
    (void)text, (void)name;
    return NN__FAIL(r->o, code, "tensor %s: %s", name, text);
}

static int nn__accept(nn__reader *r, char c) {
    if (r->at < r->end && *r->at == c) {
        r->at++;
        return 1;
    }
    return 0;
}

/* Four hex digits behind \u, at r->at; -1: they are not. */
static int32_t nn__json_hex(nn__reader *r) {
    int32_t value = 0;
    int i;
    for (i = 0; i < 4; i++, r->at++) {
        char c = r->at < r->end ? *r->at : (char)0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Moves behind an escape, of which r->at is the backslash; surrogates must come in pairs. */
static int nn__json_escape(nn__reader *r) {
    int32_t unit;
    char c = ++r->at < r->end ? *r->at : (char)0;
    if (c) r->at++;
    if (c == '"' || c == '\\' || c == '/' || c == 'b' || c == 'f' || c == 'n' || c == 'r' ||
        c == 't')
        return 1;
    if (c != 'u') return 0;
    unit = nn__json_hex(r);
    if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff)) return 0;
    if (unit < 0xd800 || unit > 0xdbff) return 1;
    if (!nn__accept(r, '\\') || !nn__accept(r, 'u')) return 0;
    unit = nn__json_hex(r);
    return unit >= 0xdc00 && unit <= 0xdfff;
}

/* Moves behind one code point of UTF-8 beyond ASCII (Unicode 15, table 3-7). */
static int nn__json_utf8(nn__reader *r) {
    unsigned char c = (unsigned char)*r->at++;
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1, i;
    if (c < 0xc2 || c > 0xf4) return 0;
    for (i = 0; i < more; i++, r->at++) {
        unsigned char next = r->at < r->end ? (unsigned char)*r->at : 0;
        if (next < 0x80 || next > 0xbf) return 0;
        if (i == 0 && ((c == 0xe0 && next < 0xa0) || (c == 0xed && next > 0x9f) ||
                       (c == 0xf0 && next < 0x90) || (c == 0xf4 && next > 0x8f)))
            return 0;
    }
    return 1;
}

/* A string; escapes and bytes outside printable ASCII only where lenient. */
static int nn__json_string(nn__reader *r, int lenient, const char **s, size_t *n) {
    if (!nn__accept(r, '"'))
        return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a string is expected here");
    *s = r->at;
    while (r->at < r->end && *r->at != '"') {
        unsigned char c = (unsigned char)*r->at;
        int fine = 1;
        if (c < 0x20) return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a control byte in a string");
        if (!lenient && (c == '\\' || c > 0x7e))
            return nn__file_fail(r, NN_ERR_FILE_SYNTAX,
                                 "an escape or a byte that is not ASCII in a name");
        if (c == '\\') fine = nn__json_escape(r);
        else if (c >= 0x80) fine = nn__json_utf8(r);
        else r->at++;
        if (!fine) return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a broken escape or broken UTF-8");
    }
    *n = (size_t)(r->at - *s);
    if (!nn__accept(r, '"')) return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a string does not end");
    return 0;
}

/* Decimal digits, at most most. */
static int nn__json_number(nn__reader *r, int64_t most, int64_t *value) {
    const char *start = r->at;
    *value = 0;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') {
        *value = *value * 10 + (*r->at++ - '0');
        if (*value > most)
            return nn__file_fail(r, most == INT32_MAX ? NN_ERR_FILE_DTYPE : NN_ERR_FILE_SIZE,
                                 "a number is too large");
    }
    if (r->at == start || (*start == '0' && r->at > start + 1))
        return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a plain decimal number is expected here");
    return 0;
}

/* Bytes of an element of a dtype; 0: unknown. */
static int nn__dtype_bytes(const char *s, size_t n) {
    static const char names[] = "F32 F16 BF16 I8 U8 I32 I64", sizes[] = "4221148";
    const char *list = names, *word;
    size_t length;
    int i;
    for (i = 0; (word = nn__word(&list, &length)) != NULL; i++) {
        size_t k = 0;
        while (k < n && k < length && word[k] == s[k]) k++;
        if (k == n && k == length) return sizes[i] - '0';
    }
    return 0;
}

/* 1. and digits */
static int nn__is_version_1(const char *s, size_t n) {
    size_t i;
    for (i = 2; i < n; i++)
        if (s[i] < '0' || s[i] > '9') return 0;
    return n > 2 && s[0] == '1' && s[1] == '.';
}

/* The metadata, which must come first when it is there. Any key that begins with nn. makes the file
 * ours. */
static int nn__read_metadata(nn__reader *r) {
    const char *crc_place = (const char *)(const void *)r->image + NN__CRC_AT;
    int first = 1, err, known = 0;
    if (!nn__accept(r, '{')) return nn__file_fail(r, NN_ERR_FILE_META, "metadata is not an object");
    if (nn__accept(r, '}')) return 0;
    do {
        const char *key, *value;
        size_t key_size, value_size;
        int is_ours, bit = 0;
        err = nn__json_string(r, !r->ours, &key, &key_size);
        if (!err && !nn__accept(r, ':'))
            err = nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a colon is expected here");
        if (!err) err = nn__json_string(r, !r->ours, &value, &value_size);
        if (err) return err;
        is_ours = key_size >= 3 && key[0] == 'n' && key[1] == 'n' && key[2] == '.';
        if (is_ours && first) {
            r->ours = nn__is("nn.crc32", key, key_size) && value == crc_place && value_size == 8;
            if (!r->ours)
                return nn__file_fail(r, NN_ERR_FILE_META, "nn.crc32 does not stand at byte 37");
        } else if (is_ours && !r->ours) {
            return nn__file_fail(r, NN_ERR_FILE_META,
                                 "a file with nn. keys must begin with nn.crc32");
        }
        first = 0;
        if (nn__is("nn.crc32", key, key_size)) bit = 1;
        if (nn__is("nn.version", key, key_size)) {
            bit = 2;
            if (!nn__is_version_1(value, value_size))
                return nn__file_fail(r, NN_ERR_FILE_VERSION, "the format's version is not 1.x");
        }
        if (nn__is("nn.kind", key, key_size)) {
            bit = 4;
            r->is_training = nn__is("train", value, value_size);
            if (!r->is_training && !nn__is("model", value, value_size))
                return nn__file_fail(r, NN_ERR_FILE_VERSION, "nn.kind is neither model nor train");
        }
        if (nn__is("nn.req", key, key_size)) {
            bit = 8;
            if (value_size)
                return nn__file_fail(r, NN_ERR_FILE_VERSION,
                                     "nn.req asks for what this reader lacks");
        }
        if (nn__is("nn.graph", key, key_size))
            bit = 16, r->graph = value, r->graph_size = value_size;
        if (nn__is("nn.train", key, key_size))
            bit = 32, r->train = value, r->train_size = value_size;
        if (known & bit) return nn__file_fail(r, NN_ERR_FILE_META, "a key stands twice");
        known |= bit;
    } while (nn__accept(r, ','));
    if (!nn__accept(r, '}')) return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "metadata does not end");
    if (r->ours && (known & 6) != 6)
        return nn__file_fail(r, NN_ERR_FILE_META, "nn.version or nn.kind is missing");
    return 0;
}

/* "dtype", "shape" and "data_offsets" of an entry, each once, in any order. */
static int nn__read_entry_fields(nn__reader *r, nn__entry *e) {
    int seen = 0, err = 0;
    if (!nn__accept(r, '{'))
        return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a tensor's entry is not an object");
    do {
        const char *key;
        size_t n;
        int64_t value;
        int bit, count = 0;
        err = nn__json_string(r, 0, &key, &n);
        if (!err && !nn__accept(r, ':'))
            err = nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a colon is expected here");
        if (err) return err;
        bit = nn__is("dtype", key, n)          ? 1
              : nn__is("shape", key, n)        ? 2
              : nn__is("data_offsets", key, n) ? 4
                                               : 0;
        if (!bit || (seen & bit))
            return nn__file_fail(r, NN_ERR_FILE_SYNTAX,
                                 "a tensor has an unknown key, or one twice");
        seen |= bit;
        if (bit == 1) {
            err = nn__json_string(r, 0, &e->dtype, &e->dtype_size);
            if (err) return err;
            continue;
        }
        if (!nn__accept(r, '['))
            return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a list is expected here");
        while (!nn__accept(r, ']')) {
            if (count && !nn__accept(r, ','))
                return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a list does not end");
            err = nn__json_number(r, bit == 2 ? 0x7fffffff : NN__LIMIT * 8, &value);
            if (err) return err;
            if (count == (bit == 2 ? 6 : 2))
                return nn__entry_fail(r, e, NN_ERR_FILE_DTYPE,
                                      "has more than 6 dimensions, or more than 2 offsets");
            if (bit == 2) e->dim[count] = (int32_t)value;
            else if (count) e->end = value;
            else e->begin = value;
            count++;
        }
        if (bit == 2) e->ndim = count;
        else if (count != 2)
            return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "data_offsets are not two");
    } while (nn__accept(r, ','));
    if (!nn__accept(r, '}') || seen != 7)
        return nn__file_fail(r, NN_ERR_FILE_SYNTAX,
                             "a tensor's entry does not end, or lacks a key");
    return 0;
}

/* The next tensor, checked: type, sizes, and that it begins where the last ended. */
static int nn__read_entry(nn__reader *r, nn__entry *e) {
    int64_t size;
    int err, d;
    NN_MEMSET(e, 0, sizeof *e);
    err = nn__json_string(r, 0, &e->name, &e->name_size);
    if (!err && !nn__accept(r, ':'))
        err = nn__file_fail(r, NN_ERR_FILE_SYNTAX, "a colon is expected here");
    if (!err && nn__is("__metadata__", e->name, e->name_size))
        err = nn__file_fail(r, NN_ERR_FILE_META, "metadata is not first, or stands twice");
    if (!err && (!e->name_size || e->name_size > 255))
        err = nn__file_fail(r, NN_ERR_FILE_SYNTAX,
                            "a tensor's name is empty or longer than 255 bytes");
    if (!err) err = nn__read_entry_fields(r, e);
    if (err) return err;
    e->bytes = nn__dtype_bytes(e->dtype, e->dtype_size);
    if (!e->bytes)
        return nn__entry_fail(r, e, NN_ERR_FILE_DTYPE, "is none of F32 F16 BF16 I8 U8 I32 I64");
    for (size = e->bytes, d = 0; d < e->ndim; d++) {
        size = nn__times(size, e->dim[d]);
        if (size >= NN__LIMIT)
            return nn__entry_fail(r, e, NN_ERR_FILE_SIZE, "is larger than any file");
    }
    if (e->end < e->begin || e->end - e->begin != size)
        return nn__entry_fail(r, e, NN_ERR_FILE_SIZE, "its data_offsets do not fit its shape");
    if (e->begin != r->next)
        return nn__entry_fail(r, e, NN_ERR_FILE_ORDER,
                              "does not begin where the tensor before it ends");
    if (e->end > r->data_size)
        return nn__entry_fail(r, e, NN_ERR_FILE_END, "ends behind the end of the file");
    r->next = e->end;
    return ++r->tensors <= 65535 ? 0
                                 : nn__file_fail(r, NN_ERR_FILE_SYNTAX, "more than 65535 tensors");
}

/* Opens the header: *r stands before the first entry. Returns 1 when there is one, 0 when not, or
 * an error. */
static int nn__open_entries(nn__reader *r) {
    int err;
    if (!nn__accept(r, '{'))
        return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "the header is not an object");
    if (r->at < r->end && *r->at == '}') return 0;
    if ((size_t)(r->end - r->at) >= 15 && nn__is("\"__metadata__\":", r->at, 15)) {
        r->at += 15;
        err = nn__read_metadata(r);
        if (err) return err;
        return nn__accept(r, ',');
    }
    return 1;
}

/* Checks the whole header and the checksum. Afterwards r is rewound to the first entry, for
 * nn__next_entry. */
static int nn__open_file(nn__reader *r, const void *image, size_t size, const nn_opts *o) {
    const unsigned char *p = (const unsigned char *)image;
    uint64_t header;
    nn__reader start;
    nn__entry e;
    int more, err;
    NN_MEMSET(r, 0, sizeof *r);
    r->o = o;
    if (!p) return NN__FAIL(o, NN_ERR_CALL, "the file image is NULL");
    if (size < 8)
        return NN__FAIL(o, NN_ERR_FILE_SHORT,
                        "the file has %D bytes, its header's length alone takes 8", (int64_t)size);
    header = nn__get32(p) | (uint64_t)nn__get32(p + 4) << 32;
    if (header > size - 8)
        return NN__FAIL(o, NN_ERR_FILE_SHORT,
                        "the file has %D bytes, but its header alone should have %D", (int64_t)size,
                        (int64_t)(header >> 1) < 0 ? -1 : (int64_t)(header & INT64_MAX));
    if (header > NN__HEADER_MAX)
        return NN__FAIL(o, NN_ERR_FILE_SHORT, "the header has %D bytes, more than a file may have",
                        (int64_t)header);
    r->image = p;
    r->at = (const char *)image + 8;
    r->end = r->at + header;
    r->data = p + 8 + header;
    r->data_size = (int64_t)(size - 8 - (size_t)header);
    start = *r;
    more = nn__open_entries(r);
    for (err = more; more > 0; more = nn__accept(r, ',')) {
        err = nn__read_entry(r, &e);
        if (err) return err;
    }
    if (more < 0) return more;
    if (!nn__accept(r, '}')) return nn__file_fail(r, NN_ERR_FILE_SYNTAX, "the header does not end");
    if (r->next != r->data_size)
        return NN__FAIL(o, NN_ERR_FILE_END, "the tensors end at byte %D, the file has %D bytes",
                        (int64_t)(r->data - p) + r->next, (int64_t)size);
    while (nn__accept(r, ' ')) {}
    if (r->at != r->end)
        return nn__file_fail(r, NN_ERR_FILE_TAIL, "something follows the header's closing brace");
    if (r->ours) {
        char digits[8];
        nn__text t = nn__text_to(digits, 8);
        uint32_t crc = nn__crc32(0, p, NN__CRC_AT);
        crc = nn__crc32(crc, "00000000", 8);
        nn__putx(&t, nn__crc32(crc, p + NN__CRC_AT + 8, size - NN__CRC_AT - 8));
        for (err = 0; err < 8; err++)
            if ((unsigned char)digits[err] != p[NN__CRC_AT + err])
                return NN__FAIL(o, NN_ERR_FILE_CRC, "the file is damaged: its checksum is wrong");
    }
    start.ours = 0;
    more = nn__open_entries(&start);
    start.is_training = r->is_training;
    start.tensors = 0;
    *r = start;
    return more < 0 ? more : 0;
}

/* The next tensor of a file that was checked whole; 0 at the end. */
static int nn__next_entry(nn__reader *r, nn__entry *e) {
    if (r->at < r->end && *r->at == ',') r->at++;
    if (r->at >= r->end || *r->at != '"') return 0;
    return nn__read_entry(r, e) == 0;
}

static float nn__half(uint32_t h) {
    uint32_t sign = h >> 15 << 31, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
    float f;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        f = (float)mantissa * 5.9604644775390625e-8f; /* 2^-24 */
        NN_MEMCPY(&bits, &f, 4);
        bits |= sign;
    }
    NN_MEMCPY(&f, &bits, 4);
    return f;
}

/* Copies an entry's values to tensor t's part, as they lie there. */
static void nn__copy_entry(const nn_model *m, const nn_tensor *t, const nn__reader *r,
                           const nn__entry *e, float *to) {
    const unsigned char *from = r->data + e->begin;
    uint32_t i;
    for (i = 0; i < t->count; i++, from += e->bytes) {
        uint32_t bits =
            e->bytes == 4 ? nn__get32(from) : (uint32_t)from[0] | (uint32_t)from[1] << 8;
        float value;
        if (e->dtype[0] == 'B') bits <<= 16;
        if (e->dtype[0] == 'F' && e->bytes == 2) value = nn__half(bits);
        else NN_MEMCPY(&value, &bits, 4);
        to[nn__place(t, m->rows[t->row].groups, i)] = value;
    }
}

/* Tensors of files that no model has, and that mean nothing to one. */
static int nn__is_ignored(const nn__entry *e) {
    static const char *const suffixes[] = { "num_batches_tracked", "position_ids" };
    size_t i;
    for (i = 0; i < 2; i++) {
        size_t n = nn__strlen(suffixes[i]);
        if (e->name_size >= n && nn__is(suffixes[i], e->name + e->name_size - n, n)) return 1;
    }
    return e->name_size > 4 && nn__is("aux.", e->name, 4);
}

static int nn__is_state(const nn__entry *e) {
    return e->name_size > 4 && nn__is("opt.", e->name, 4);
}

/* Checks that entry e can become part of tensor t. */
static int nn__check_entry(const nn__reader *r, const nn__entry *e, const nn_tensor *t) {
    int d, same = e->ndim == t->ndim;
    for (d = 0; same && d < t->ndim; d++) same = e->dim[d] == t->dim[d];
    if (!same)
        return nn__entry_fail(r, e, NN_ERR_FILE_TENSOR, "is not of the shape that its row needs");
    if (e->dtype[0] != 'F' && e->dtype[0] != 'B')
        return nn__entry_fail(r, e, NN_ERR_FILE_TENSOR, "holds integers where floats are needed");
    if (!(t->flags & NN__IMAGE)) return 0;
    if (e->bytes != 4) return nn__entry_fail(r, e, NN_ERR_FILE_TENSOR, "in_place needs F32");
    if (nn__misaligned(r->data + e->begin, 4))
        return nn__entry_fail(r, e, NN_ERR_ALIGN, "in_place needs it aligned to 4 bytes");
    return 0;
}

enum { NN__BOUND = 32 }; /* nn_tensor.flags while binding; shifted by the part, at most 128 */

/* What binding a file to a model does with tensors that have no partner. */
typedef struct nn__bind {
    int allow_missing, parts, dry; /* parts: 1: parameters only; dry: check only */
    void (*missing)(void *user, const char *name);
    void *user;
} nn__bind;

static void nn__tell(const nn__bind *b, char sign, const nn_model *m, int32_t t,
                     const nn__entry *e) {
    char name[300];
    nn__text out = nn__text_to(name, sizeof name - 1);
    if (!b->missing || !b->dry) return;
    nn__put(&out, &sign, 1);
    if (e) nn__put(&out, e->name, e->name_size);
    else nn__put_tensor_name(&out, m, (uint32_t)t);
    name[out.len < sizeof name - 1 ? out.len : sizeof name - 1] = 0;
    b->missing(b->user, name);
}

/* Did a tensor of this name stand before? For those that no tensor of the model keeps count of. */
static int nn__stood_before(const nn__reader *r, const nn__entry *e) {
    const char *at = (const char *)(const void *)r->image + 8, *end = e->name - 1;
    for (; at + e->name_size + 4 <= end; at++) {
        size_t i = 0;
        if (at[0] != '"' || at[e->name_size + 1] != '"' || at[e->name_size + 3] != '{') continue;
        while (i < e->name_size && at[i + 1] == e->name[i]) i++;
        if (i == e->name_size) return 1;
    }
    return 0;
}

/* Every tensor of the file against every tensor of the model. */
static int nn__bind_entries(nn_model *m, nn__reader r, const nn__bind *b) {
    nn__entry e;
    int err = 0;
    while (!err && nn__next_entry(&r, &e)) {
        int part = NN__PARAM;
        int32_t i = b->parts == 1 ? nn__find_tensor(m, e.name, e.name_size)
                                  : nn__find_part(m, e.name, e.name_size, &part);
        nn_tensor *t;
        int ignored = nn__is_ignored(&e) || (nn__is_state(&e) && b->parts == 1);
        if (b->dry && (ignored || i < 0) && nn__stood_before(&r, &e))
            return nn__entry_fail(&r, &e, NN_ERR_FILE_TENSOR, "stands twice");
        if (ignored) continue;
        if (i < 0) {
            if (!b->allow_missing)
                return nn__entry_fail(&r, &e, NN_ERR_FILE_TENSOR, "no row has such a tensor");
            nn__tell(b, '+', m, 0, &e);
            continue;
        }
        t = &m->tensor[m->tensor[i].alias];
        if (b->dry) {
            err = nn__check_entry(&r, &e, t);
            if (!err && (t->flags & NN__BOUND << part))
                err = nn__entry_fail(&r, &e, NN_ERR_FILE_TENSOR,
                                     "stands twice, or is shared and given twice");
            t->flags = (uint8_t)(t->flags | NN__BOUND << part);
        } else if (part == NN__PARAM && (t->flags & NN__IMAGE)) {
            t->offset = (uint32_t)(r.data - r.image + e.begin);
        } else {
            nn__copy_entry(m, t, &r, &e, nn__part(m, t, part));
        }
    }
    return err;
}

/* Every part of every tensor of the model was in the file, or may be missing. */
static int nn__check_bound(nn_model *m, const nn__reader *r, const nn__bind *b) {
    uint32_t i;
    int part;
    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *t = &m->tensor[i];
        char name[NN__NAME_MAX + 32];
        nn__text out = nn__text_to(name, sizeof name - 1);
        if (t->alias != i) continue;
        for (part = NN__PARAM; part < b->parts; part++) {
            if (!nn__part(m, t, part) || (t->flags & NN__BOUND << part)) continue;
            if (b->allow_missing) {
                nn__tell(b, '-', m, (int32_t)i, NULL);
                continue;
            }
            nn__puts(&out, nn__part_prefix(m, part));
            nn__put_tensor_name(&out, m, i);
            name[out.len < sizeof name - 1 ? out.len : sizeof name - 1] = 0;
            return NN__FAIL(r->o, NN_ERR_FILE_TENSOR, "the file lacks tensor %s", name);
        }
    }
    return 0;
}

/* Binds a checked file to the model: first a dry run, then the copies. All or nothing. */
static int nn__bind_file(nn_model *m, const nn__reader *r, nn__bind *b) {
    uint32_t i;
    int err;
    b->dry = 1;
    err = nn__bind_entries(m, *r, b);
    if (!err) err = nn__check_bound(m, r, b);
    for (i = 0; i < m->tensor_count; i++) m->tensor[i].flags &= NN__BOUND - 1;
    b->dry = 0;
    if (!err) err = nn__bind_entries(m, *r, b);
    for (i = 0; i < m->tensor_count && !err; i++)
        m->tensor[i].offset = m->tensor[m->tensor[i].alias].offset;
    return err;
}

/* Value of key in nn.train: digits behind "key=", as a number of the given base up to a space. */
static int nn__training_value(const nn__reader *r, const char *key, int base, uint64_t *value) {
    const char *at = r->train, *end = r->train + r->train_size;
    size_t n = nn__strlen(key);
    while (at < end) {
        const char *word = at;
        while (at < end && *at != ' ') at++;
        if ((size_t)(at - word) > n && nn__is(key, word, n)) {
            for (word += n, *value = 0; word < at; word++) {
                int digit = *word >= '0' && *word <= '9'   ? *word - '0'
                            : *word >= 'a' && *word <= 'f' ? *word - 'a' + 10
                                                           : 99;
                if (digit >= base) return 0;
                *value = *value * (uint64_t)base + (uint64_t)digit;
            }
            return 1;
        }
        while (at < end && *at == ' ') at++;
    }
    return 0;
}

/* An option against the file's: taken over where it is zero, else it must agree. */
static int nn__resume_option(const nn__reader *r, const char *key, int base, void *option) {
    uint64_t value;
    uint32_t have, bits;
    NN_MEMCPY(&have, option, 4);
    if (!nn__training_value(r, key, base, &value))
        return NN__FAIL(r->o, NN_ERR_FILE_META, "nn.train lacks %s or it is no number", key);
    bits = (uint32_t)value;
    if (value > UINT32_MAX)
        return NN__FAIL(r->o, NN_ERR_FILE_META, "nn.train: %s is out of range", key);
    if (have && have != bits)
        return NN__FAIL(r->o, NN_ERR_OPTION, "resume: the file's %s differs from the option given",
                        key);
    NN_MEMCPY(option, &bits, 4);
    return 0;
}

/* What was trained must be trained on. */
static int nn__resume_train(const nn__reader *r, const char *train) {
    const char *at = r->train, *end = r->train + r->train_size;
    while (at < end && !((size_t)(end - at) >= 7 && nn__is(" train=", at, 7))) at++;
    if (at == end) return NN__FAIL(r->o, NN_ERR_FILE_META, "nn.train lacks train");
    at += 7;
    if (train && nn__is(train, at, (size_t)(end - at))) return 0;
    return NN__FAIL(r->o, NN_ERR_OPTION, "resume: train must be \"%W\", as in the file", at,
                    (size_t)(end - at));
}

/* Takes what resuming needs from nn.train into the options. */
static int nn__resume_options(const nn__reader *r, nn_opts *o) {
    uint64_t seed = 0;
    int err;
    if (!r->is_training || !r->train)
        return NN__FAIL(r->o, NN_ERR_OPTION, "resume: the file holds no training state");
    err = nn__resume_train(r, o->train);
    if (!err) err = nn__resume_option(r, "loss=", 10, &o->loss);
    if (!err) err = nn__resume_option(r, "opt=", 10, &o->optimizer);
    if (!err) err = nn__resume_option(r, "epsmode=", 10, &o->eps_mode);
    if (!err) err = nn__resume_option(r, "lr=x", 16, &o->lr);
    if (!err) err = nn__resume_option(r, "mom=x", 16, &o->momentum);
    if (!err) err = nn__resume_option(r, "b1=x", 16, &o->beta1);
    if (!err) err = nn__resume_option(r, "b2=x", 16, &o->beta2);
    if (!err) err = nn__resume_option(r, "eps=x", 16, &o->eps);
    if (!err) err = nn__resume_option(r, "wd=x", 16, &o->weight_decay);
    if (err) return err;
    if (!nn__training_value(r, "seed=", 16, &seed))
        return NN__FAIL(r->o, NN_ERR_FILE_META, "nn.train lacks seed");
    if (o->seed && o->seed != seed)
        return NN__FAIL(r->o, NN_ERR_OPTION,
                        "resume: the file's seed differs from the option given");
    o->seed = seed;
    return 0;
}

#ifndef NN_NO_PLANNER
/* The source of a file's rows; r is opened. */
static nn__source nn__source_file(const nn__reader *r, int *err) {
    nn__source s = nn__source_rows(NULL);
    *err = 0;
    if (!r->graph)
        *err = NN__FAIL(r->o, NN_ERR_FILE_GRAPH,
                        "the file holds no rows (nn.graph): a plain state "
                        "dict, for nn_load_params");
    if (!*err) s = nn__source_text(r->graph, r->graph_size, r->o, err);
    s.file = 1;
    return s;
}

/* Errors of rows that come from a file are the file's. */
static int nn__graph_error(int err) { return err == NN_ERR_ROW ? NN_ERR_FILE_GRAPH : err; }

/* Is e the application's? Then its name begins at e->name + 4. */
static int nn__is_aux(const nn__entry *e) {
    char name[NN__NAME_MAX + 1];
    size_t n = e->name_size;
    if (n < 5 || n > NN__NAME_MAX + 4 || !nn__is("aux.", e->name, 4)) return 0;
    NN_MEMCPY(name, e->name + 4, n - 4);
    name[n - 4] = 0;
    return nn__name_is_valid(name) && e->dtype_size == 2 && e->dtype[0] == 'U' && e->ndim == 1 &&
           e->dim[0] > 0;
}

/* Lays the application's data out at to: a list of nn_aux as on a 64-bit machine, names, and the
   bytes unless they stay in the image. to NULL: only counts. */
static int64_t nn__take_aux(nn__reader r, int in_place, unsigned char *to) {
    enum { ENTRY = 24 };
    nn_aux *list = (nn_aux *)(void *)to;
    nn__reader first = r;
    nn__entry e;
    int64_t at = 0;
    while (nn__next_entry(&r, &e)) at += nn__is_aux(&e) ? ENTRY : 0;
    if (!at) return 0;
    at += ENTRY;
    if (to) NN_MEMSET(to, 0, (size_t)at);
    for (r = first; nn__next_entry(&r, &e);) {
        int64_t bytes = in_place ? 0 : e.dim[0];
        size_t n = e.name_size - 4;
        if (!nn__is_aux(&e)) continue;
        if (to) {
            list->name = (char *)to + at;
            list->size = (size_t)e.dim[0];
            list->bytes = in_place ? r.data + e.begin : to + at + n + 1;
            list++;
            NN_MEMCPY(to + at, e.name + 4, n);
            to[at + (int64_t)n] = 0;
            NN_MEMCPY(to + at + n + 1, r.data + e.begin, (size_t)bytes);
        }
        at += (int64_t)n + 1 + bytes;
    }
    return nn__round_up(at, NN_ALIGNMENT);
}

/* Opens a file that is to become a model: its options are o's, or what resuming makes of them. */
static int nn__open_model(nn__reader *r, const void *image, size_t size, const nn_opts *given,
                          nn_opts *o, nn__source *s) {
    int err;
    *o = nn__given(given);
    err = nn__open_file(r, image, size, o);
    if (!err && o->weights) err = NN__FAIL(o, NN_ERR_OPTION, "weights: a file brings its own");
    if (!err && o->in_place && NN__BIG_ENDIAN)
        err = NN__FAIL(o, NN_ERR_OPTION, "in_place: files are little-endian, this machine is not");
    if (!err && o->in_place && size > UINT32_MAX)
        err = NN__FAIL(o, NN_ERR_OPTION, "in_place: the file is larger than 4 GiB");
    if (!err && o->resume) err = nn__resume_options(r, o);
    if (!err) *s = nn__source_file(r, &err);
    if (!err && !o->aux) s->aux_bytes = nn__take_aux(*r, o->in_place, NULL);
    return nn__graph_error(err);
}

NNDEF int64_t nn_memory_file(const void *image, size_t size, const nn_opts *o) {
    nn__reader r;
    nn__source s;
    nn_opts opts;
    nn_model m;
    int64_t total;
    int err = nn__open_model(&r, image, size, o, &opts, &s);
    if (err) return err;
    total = nn__plan(&m, &s, &opts, 0);
    return total < 0 ? nn__graph_error((int)total) : total;
}

NNDEF int nn_load(nn_model *m, const void *image, size_t size, const nn_opts *o) {
    nn__reader r;
    nn__source s;
    nn__bind b;
    nn_opts opts;
    uint64_t t = 0, p1 = 0, p2 = 0, one = (uint64_t)1 << 63;
    int err;
    if (!m) return NN__FAIL(o, NN_ERR_CALL, "m is NULL");
    NN_MEMSET(m, 0, sizeof *m);
    err = nn__open_model(&r, image, size, o, &opts, &s);
    if (!err) err = nn__graph_error(nn__build(m, &s, &opts));
    if (err) return err;
    nn__reset_state(m);
    if (opts.in_place) m->image = r.image;
    if (s.aux_bytes) {
        unsigned char *aux = m->block + nn__text_bytes(s.text_rows, s.text_size);
        (void)nn__take_aux(r, opts.in_place, aux);
        m->opts.aux = (const nn_aux *)(const void *)aux;
    }
    NN_MEMSET(&b, 0, sizeof b);
    b.parts = opts.resume ? 3 : 1;
    err = nn__bind_file(m, &r, &b);
    if (!err && opts.resume) {
        if (!nn__training_value(&r, "t=", 16, &t) || !nn__training_value(&r, "b1t=", 16, &p1) ||
            !nn__training_value(&r, "b2t=", 16, &p2) || p1 > one || p2 > one ||
            (t && opts.optimizer == NN_ADAM && (p1 == one || p2 == one)))
            err = NN__FAIL(&opts, NN_ERR_FILE_META,
                           "nn.train lacks its counters, or they are out of range");
        m->step = t;
        m->beta1_power = p1;
        m->beta2_power = p2;
    }
    if (err) nn_free(m);
    return err;
}
#endif

NNDEF int nn_load_params(nn_model *m, const void *image, size_t size, int allow_missing,
                         void (*missing)(void *user, const char *name), void *user) {
    nn__reader r;
    nn__bind b;
    uint32_t i;
    int err = nn__argument(m, 1, "");
    if (err) return err;
    for (i = 0; i < m->tensor_count; i++)
        if (m->tensor[i].flags & (NN__IMAGE | NN__PARENT))
            return NN__FAIL(&m->opts, NN_ERR_CALL,
                            "the model has read-only tensors (in_place, or a clone's)");
    err = nn__open_file(&r, image, size, &m->opts);
    NN_MEMSET(&b, 0, sizeof b);
    b.allow_missing = allow_missing;
    b.missing = missing;
    b.user = user;
    b.parts = 1;
    return err ? err : nn__bind_file(m, &r, &b);
}

#ifndef NN_NO_STDIO
static int nn__write_stdio(void *user, const void *bytes, size_t size) {
    return fwrite(bytes, 1, size, (FILE *)user) != size;
}

NNDEF int nn_save_file(const nn_model *m, const char *path, int with_training) {
    char part[1024 + 5], *end = part;
    FILE *f;
    size_t n = path ? nn__strlen(path) : 0;
    int64_t size;
    int err = nn__argument(m, n > 0 && n <= 1024, "path is NULL, empty, or longer than 1024 bytes");
    if (err) return err;
    NN_MEMCPY(part, path, n);
    NN_MEMCPY(end + n, ".tmp", 5);
    f = fopen(part, "wb");
    if (!f) return NN__FAIL(&m->opts, NN_ERR_IO, "cannot write %s", part);
    size = nn_save(m, with_training, nn__write_stdio, f);
    err = size < 0 ? (int)size : 0;
    if (!err && (fflush(f) || NN_SYNC(f)))
        err = NN__FAIL(&m->opts, NN_ERR_IO, "writing %s failed", part);
    if (fclose(f) && !err) err = NN__FAIL(&m->opts, NN_ERR_IO, "closing %s failed", part);
    if (!err && NN_RENAME(part, path))
        err = NN__FAIL(&m->opts, NN_ERR_IO, "cannot rename %s to %s", part, path);
    if (err) remove(part);
    else NN__SYNC_FOLDER(path);
    return err;
}

#if !defined(NN_NO_MALLOC) && !defined(NN_NO_PLANNER)
NNDEF int nn_load_file(nn_model *m, const char *path, const nn_opts *o) {
    void *image = NULL;
    long size = -1;
    FILE *f;
    int err = 0;
    if (!m || !path) return NN__FAIL(o, NN_ERR_CALL, "m or path is NULL");
    NN_MEMSET(m, 0, sizeof *m);
    f = fopen(path, "rb");
    if (!f) return NN__FAIL(o, NN_ERR_IO, "cannot read %s", path);
    if (!fseek(f, 0, SEEK_END)) size = ftell(f);
    if (size < 0 || size == LONG_MAX || fseek(f, 0, SEEK_SET))
        err = NN__FAIL(o, NN_ERR_IO, "%s is not a file that can be read", path);
    if (!err) image = NN_MALLOC((size_t)size + 1);
    if (!err && !image)
        err = NN__FAIL(o, NN_ERR_MEMORY, "malloc of %D bytes for %s failed", (int64_t)size, path);
    if (!err && fread(image, 1, (size_t)size, f) != (size_t)size)
        err = NN__FAIL(o, NN_ERR_IO, "reading %s failed", path);
    fclose(f);
    if (!err) err = nn_load(m, image, (size_t)size, o);
    if (!err && o && o->in_place) m->owned_file = image;
    else NN_FREE(image);
    return err;
}
#endif
#endif

/* >>tokenizer -----------------------------------------------------------------------------------
   Text to ids. Nobody in this file calls it but users do: nn_words_ counts words and writes a
   vocabulary, nn_tokenizer_ looks words up in one. Owns nothing: both work in the caller's memory,
   without pointers in it. Uses >>util.

   The image of a vocabulary of N words, all numbers little-endian:

     0    "nnw1"
     4    u32 N, largest id
     8    u32 F, bytes of the filters
     12   u32 flags: 1 keeps case, 2 word 1 stands for unknown words; the split character << 8
     16   the filters
     ...  u32 slots[N + N / 2 + 1]: a hash table of ids, 0 empty
     ...  u32 ends[N]: where the bytes of each word end, counted from the first word's
     ...  the words, in lower case unless case is kept, by id

   A word's home is slot hash * slots >> 32; it stands there or in the first empty slot after it,
   around the end, words entered by rising id. While words are counted the same tables, of the
   block's full size, hold them in the order of appearance, so that both are searched by the same
   code. Words have no bound: nothing holds one, its characters are made lower case once to hash it
   and again to compare or store it. */

/* Capitals of lower case code + delta; every step-th code from first to last. */
typedef struct nn__capitals {
    uint16_t first, last;
    uint16_t step;
    int16_t delta;
} nn__capitals;

static uint32_t nn__lower(uint32_t code) {
    static const nn__capitals capitals[] = {
        { 0x0041, 0x005a, 1, 32 },  { 0x00c0, 0x00d6, 1, 32 },  { 0x00d8, 0x00de, 1, 32 },
        { 0x0100, 0x012e, 2, 1 },   { 0x0132, 0x0136, 2, 1 },   { 0x0139, 0x0147, 2, 1 },
        { 0x014a, 0x0176, 2, 1 },   { 0x0178, 0x0178, 1, -121 }, { 0x0179, 0x017d, 2, 1 },
        { 0x01a0, 0x01a0, 1, 1 },   { 0x01af, 0x01af, 1, 1 },   { 0x0218, 0x021a, 2, 1 },
        { 0x0370, 0x0372, 2, 1 },   { 0x0376, 0x0376, 1, 1 },   { 0x037f, 0x037f, 1, 116 },
        { 0x0386, 0x0386, 1, 38 },  { 0x0388, 0x038a, 1, 37 },  { 0x038c, 0x038c, 1, 64 },
        { 0x038e, 0x038f, 1, 63 },  { 0x0391, 0x03a1, 1, 32 },  { 0x03a3, 0x03ab, 1, 32 },
        { 0x03cf, 0x03cf, 1, 8 },   { 0x03d8, 0x03ee, 2, 1 },   { 0x03f4, 0x03f4, 1, -60 },
        { 0x03f7, 0x03f7, 1, 1 },   { 0x03f9, 0x03f9, 1, -7 },  { 0x03fa, 0x03fa, 1, 1 },
        { 0x03fd, 0x03ff, 1, -130 }, { 0x0400, 0x040f, 1, 80 }, { 0x0410, 0x042f, 1, 32 },
        { 0x0460, 0x0480, 2, 1 },   { 0x048a, 0x04be, 2, 1 },   { 0x04c0, 0x04c0, 1, 15 },
        { 0x04c1, 0x04cd, 2, 1 },   { 0x04d0, 0x052e, 2, 1 },   { 0x1e00, 0x1e94, 2, 1 },
        { 0x1e9e, 0x1e9e, 1, -7615 }, { 0x1ea0, 0x1efe, 2, 1 }
    };
    size_t i;
    if (code < 0x80) return code - 'A' < 26 ? code + 32 : code;
    for (i = 1; i < sizeof capitals / sizeof *capitals; i++) {
        const nn__capitals *c = &capitals[i];
        if (code > c->last) continue;
        if (code < c->first || (code - (uint32_t)c->first) % (uint32_t)c->step != 0) return code;
        return (uint32_t)((int32_t)code + c->delta);
    }
    return code;
}

/* Codes from first to last: for a final sigma, what has case and what is looked through. */
typedef struct nn__codes {
    uint16_t first, last;
} nn__codes;

static int nn__is_among(const nn__codes *list, size_t n, uint32_t code) {
    while (n--)
        if (code >= list[n].first && code <= list[n].last) return 1;
    return 0;
}

static int nn__has_case(uint32_t code) {
    static const nn__codes list[] = {
        { 0x0041, 0x005a }, { 0x0061, 0x007a }, { 0x00aa, 0x00aa }, { 0x00b5, 0x00b5 },
        { 0x00ba, 0x00ba }, { 0x00c0, 0x00d6 }, { 0x00d8, 0x00f6 }, { 0x00f8, 0x01ba },
        { 0x01bc, 0x01bf }, { 0x01c4, 0x0293 }, { 0x0295, 0x02af }, { 0x0370, 0x0373 },
        { 0x0376, 0x0377 }, { 0x037b, 0x037d }, { 0x037f, 0x037f }, { 0x0386, 0x0386 },
        { 0x0388, 0x038a }, { 0x038c, 0x038c }, { 0x038e, 0x03a1 }, { 0x03a3, 0x03f5 },
        { 0x03f7, 0x0481 }, { 0x048a, 0x052f }, { 0x1e00, 0x1eff }
    };
    return nn__is_among(list, sizeof list / sizeof *list, code);
}

static int nn__is_looked_through(uint32_t code) {
    static const nn__codes list[] = {
        { 0x0027, 0x0027 }, { 0x002e, 0x002e }, { 0x003a, 0x003a }, { 0x005e, 0x005e },
        { 0x0060, 0x0060 }, { 0x00a8, 0x00a8 }, { 0x00ad, 0x00ad }, { 0x00af, 0x00af },
        { 0x00b4, 0x00b4 }, { 0x00b7, 0x00b8 }, { 0x02b0, 0x036f }, { 0x0374, 0x0375 },
        { 0x037a, 0x037a }, { 0x0384, 0x0385 }, { 0x0387, 0x0387 }, { 0x0483, 0x0489 },
        { 0x2018, 0x2019 }
    };
    return nn__is_among(list, sizeof list / sizeof *list, code);
}

#define NN__BROKEN 0xdc00u /* + byte: no code of UTF-8 lies there */

/* The code that begins at p and its bytes, of which n > 0 are there. A byte that begins no UTF-8
   (Unicode 15, table 3-7) is a code of its own. */
static uint32_t nn__code(const unsigned char *p, size_t n, size_t *bytes) {
    static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
    uint32_t code = p[0];
    size_t more = code < 0xc2 ? 0 : code < 0xe0 ? 1 : code < 0xf0 ? 2 : code < 0xf5 ? 3 : 0, i;
    *bytes = 1;
    if (code < 0x80) return code;
    if (!more || more >= n) return NN__BROKEN + code;
    code &= 0x3fu >> more;
    for (i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80) return NN__BROKEN + p[0];
        code = code << 6 | (p[i] & 0x3fu);
    }
    if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return NN__BROKEN + p[0];
    *bytes = more + 1;
    return code;
}

/* The code that ends before p[at], at > 0, and its bytes. */
static uint32_t nn__code_before(const unsigned char *p, size_t at, size_t *bytes) {
    size_t start = at - 1;
    uint32_t code;
    while (start > 0 && at - start < 4 && (p[start] & 0xc0) == 0x80) start--;
    code = nn__code(p + start, at - start, bytes);
    if (*bytes == at - start) return code;
    *bytes = 1;
    return NN__BROKEN + p[at - 1];
}

static size_t nn__put_code(unsigned char *out, uint32_t code) {
    if (code >= NN__BROKEN && code < NN__BROKEN + 256) code -= NN__BROKEN;
    else if (code >= 0x10000) {
        out[0] = (unsigned char)(0xf0 | code >> 18);
        out[1] = (unsigned char)(0x80 | (code >> 12 & 63));
        out[2] = (unsigned char)(0x80 | (code >> 6 & 63));
        out[3] = (unsigned char)(0x80 | (code & 63));
        return 4;
    } else if (code >= 0x800) {
        out[0] = (unsigned char)(0xe0 | code >> 12);
        out[1] = (unsigned char)(0x80 | (code >> 6 & 63));
        out[2] = (unsigned char)(0x80 | (code & 63));
        return 3;
    } else if (code >= 0x80) {
        out[0] = (unsigned char)(0xc0 | code >> 6);
        out[1] = (unsigned char)(0x80 | (code & 63));
        return 2;
    }
    out[0] = (unsigned char)code;
    return 1;
}

/* Does the capital sigma between before and after end a word, as Unicode's Final_Sigma says? */
static int nn__is_final(const unsigned char *text, size_t size, size_t before, size_t after) {
    size_t n = 0;
    uint32_t code = ' ';
    while (before > 0) {
        code = nn__code_before(text, before, &n);
        if (!nn__is_looked_through(code)) break;
        before -= n;
    }
    if (before == 0 || !nn__has_case(code)) return 0;
    while (after < size) {
        code = nn__code(text + after, size - after, &n);
        if (!nn__is_looked_through(code)) return !nn__has_case(code);
        after += n;
    }
    return 1;
}

/* A place in a text. */
typedef struct nn__chars {
    const nn_tokenizer *t;
    const unsigned char *text;
    size_t size, at;
    int dot; /* U+0130 was read: U+0307 is still to come */
} nn__chars;

static nn__chars nn__chars_of(const nn_tokenizer *t, const char *text, size_t size) {
    nn__chars s;
    s.t = t;
    s.text = (const unsigned char *)(const void *)text;
    s.size = size;
    s.at = 0;
    s.dot = 0;
    return s;
}

static int nn__separates(const nn_tokenizer *t, uint32_t code) {
    size_t at, n;
    if (code < 128) return (int)(t->separates[code / 32] >> code % 32 & 1);
    for (at = 0; at < t->filters_size; at += n)
        if (nn__code(t->filters + at, t->filters_size - at, &n) == code) return 1;
    return 0;
}

/* Moves behind the next character and gives its bytes in lower case; 0: a word ends here. */
static size_t nn__next_char(nn__chars *s, unsigned char out[4]) {
    size_t start = s->at, n;
    uint32_t code;
    if (s->dot) {
        s->dot = 0;
        code = 0x307;
    } else {
        if (start == s->size) return 0;
        code = nn__code(s->text + start, s->size - start, &n);
        s->at += n;
        if (!s->t->keep_case) {
            s->dot = code == 0x130;
            if (s->dot) code = 'i';
            else if (code == 0x3a3 && nn__is_final(s->text, s->size, start, s->at)) code = 0x3c2;
            else code = nn__lower(code);
        }
    }
    return nn__separates(s->t, code) ? 0 : nn__put_code(out, code);
}

/* FNV-1a, and a mixer behind it because the upper bits choose the slot. */
static uint32_t nn__hash_word(uint32_t h, const unsigned char *p, size_t n) {
    while (n--) h = (h ^ *p++) * 0x01000193u;
    return h;
}

static uint32_t nn__hash_done(uint32_t h) {
    h = (h ^ h >> 16) * 0x7feb352du;
    return h ^ h >> 15;
}

#define NN__WORD_HASH 0x811c9dc5u

/* Moves behind the next word, which begins at *word; its bytes and hash. 0: there is none. */
static size_t nn__next_word(nn__chars *s, nn__chars *word, uint32_t *hash) {
    unsigned char c[4];
    size_t n, size = 0;
    uint32_t h = NN__WORD_HASH;
    do {
        *word = *s;
        n = nn__next_char(s, c);
    } while (!n && (s->at < s->size || s->dot));
    for (; n; n = nn__next_char(s, c)) {
        h = nn__hash_word(h, c, n);
        size += n;
    }
    *hash = nn__hash_done(h);
    return size;
}

static int nn__word_is(nn__chars word, const unsigned char *bytes, size_t size) {
    unsigned char c[4];
    size_t at = 0, n, i;
    while ((n = nn__next_char(&word, c)) != 0) {
        if (n > size - at) return 0;
        for (i = 0; i < n; i++)
            if (bytes[at + i] != c[i]) return 0;
        at += n;
    }
    return at == size;
}

static uint32_t nn__slots_of(uint32_t words) { return words + words / 2 + 1; }

static uint32_t nn__home(uint32_t hash, uint32_t slots) {
    return (uint32_t)((uint64_t)hash * slots >> 32);
}

/* Where the word of an id, from 1, begins and ends. */
static uint32_t nn__word_end(const nn_tokenizer *t, uint32_t id) {
    return id ? nn__get32(t->ends + 4 * (size_t)(id - 1)) : 0;
}

/* The id of a word, or 0 and the slot where it would stand. */
static uint32_t nn__find_word(const nn_tokenizer *t, const nn__chars *word, size_t size,
                              uint32_t hash, uint32_t *slot) {
    uint32_t at = nn__home(hash, t->slot_count), id;
    while ((id = nn__get32(t->slots + 4 * (size_t)at)) != 0) {
        uint32_t begin = nn__word_end(t, id - 1);
        if (nn__word_end(t, id) - begin == size && nn__word_is(*word, t->bytes + begin, size))
            return id;
        if (++at == t->slot_count) at = 0;
    }
    if (slot) *slot = at;
    return 0;
}

static void nn__set_separators(nn_tokenizer *t) {
    size_t i;
    NN_MEMSET(t->separates, 0, sizeof t->separates);
    t->separates[t->split / 32] |= 1u << t->split % 32;
    for (i = 0; i < t->filters_size; i++) {
        unsigned char c = t->filters[i];
        if (c < 128) t->separates[c / 32] |= 1u << c % 32;
    }
}

#define NN__WORDS_MAX 0x3fffffff /* a slot's number, twice, fits uint32 */
#define NN__IMAGE_HEAD 16

#ifndef NN_NO_TRAIN
static nn_opts nn__why(char *why, size_t size) {
    nn_opts o;
    NN_MEMSET(&o, 0, sizeof o);
    o.why = why;
    o.why_size = size;
    return o;
}

NNDEF int64_t nn_words_memory(int64_t words, int64_t bytes) {
    if (words < 0 || words > NN__WORDS_MAX || bytes < 0 || bytes > (int64_t)UINT32_MAX)
        return NN_ERR_CALL;
    return 4 * (int64_t)nn__slots_of((uint32_t)words) + 12 * words + bytes;
}

/* Appends a word of size bytes, counted count times: the bytes are the caller's to write. */
static unsigned char *nn__append_word(nn_words *w, uint32_t slot, size_t size, uint32_t count) {
    uint32_t begin = nn__word_end(&w->t, w->t.words), id = ++w->t.words;
    nn__put32(w->slots + 4 * (size_t)slot, id);
    nn__put32(w->ends + 4 * (size_t)(id - 1), begin + (uint32_t)size);
    nn__put32(w->counts + 4 * (size_t)(id - 1), count);
    return w->bytes + begin;
}

NNDEF int nn_words_begin(nn_words *w, const nn_words_opts *o, void *block, size_t size,
                         int64_t words, int64_t bytes) {
    static const char filters[] = "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n";
    int64_t need = nn_words_memory(words, bytes);
    nn_opts why = nn__why(o ? o->why : NULL, o ? o->why_size : 0);
    const char *chosen = o && o->filters ? o->filters : filters;
    size_t n, oov = o && o->oov ? nn__strlen(o->oov) : 0, i;
    char split = o && o->split ? o->split : ' ';
    if (!w) return NN__FAIL(&why, NN_ERR_CALL, "w is NULL");
    NN_MEMSET(w, 0, sizeof *w);
    w->failed = NN_ERR_CALL;
    if (need < 0)
        return NN__FAIL(&why, NN_ERR_CALL, "%D words of %D bytes are out of range", words, bytes);
    if (!block || (uint64_t)need > size)
        return NN__FAIL(&why, NN_ERR_MEMORY, "the block has %D bytes, %D are needed",
                        block ? (int64_t)size : (int64_t)0, need);
    if (o && o->num_words < 0) return NN__FAIL(&why, NN_ERR_OPTION, "num_words is negative");
    if (o && o->oov && o->num_words == 1)
        return NN__FAIL(&why, NN_ERR_OPTION, "num_words 1 leaves no id for the word oov");
    if ((unsigned char)split > 127)
        return NN__FAIL(&why, NN_ERR_OPTION, "split is not an ASCII character");
    n = nn__strlen(chosen);
    if (n > INT32_MAX) return NN__FAIL(&why, NN_ERR_OPTION, "filters are too long");
    for (i = 0; i < oov && o->oov[i] != split;) i++;
    if (o && o->oov && (!oov || i < oov))
        return NN__FAIL(&why, NN_ERR_OPTION, "oov is empty or holds the split character");
    if (oov && (words < 1 || oov > (uint64_t)bytes))
        return NN__FAIL(&why, NN_ERR_MEMORY, "the block has no room for the word oov");
    w->slots = (unsigned char *)block;
    w->t.slot_count = nn__slots_of((uint32_t)words);
    w->ends = w->slots + 4 * (size_t)w->t.slot_count;
    w->counts = w->ends + 4 * (size_t)words;
    w->order = w->counts + 4 * (size_t)words;
    w->bytes = w->order + 4 * (size_t)words;
    w->words_max = (uint32_t)words;
    w->bytes_max = (uint32_t)bytes;
    w->t.slots = w->slots;
    w->t.ends = w->ends;
    w->t.bytes = w->bytes;
    w->t.filters = (const unsigned char *)(const void *)chosen;
    w->t.filters_size = (uint32_t)n;
    w->t.split = (uint8_t)split;
    w->t.keep_case = o && o->keep_case;
    w->t.oov = oov > 0;
    nn__set_separators(&w->t);
    w->num_words = o ? (uint32_t)o->num_words : 0;
    w->why = why.why;
    w->why_size = why.why_size;
    NN_MEMSET(w->slots, 0, 4 * (size_t)w->t.slot_count);
    if (oov) { /* no word is more frequent, and none came before */
        const unsigned char *word = (const unsigned char *)(const void *)o->oov;
        uint32_t hash = nn__hash_done(nn__hash_word(NN__WORD_HASH, word, oov));
        NN_MEMCPY(nn__append_word(w, nn__home(hash, w->t.slot_count), oov, UINT32_MAX), word, oov);
    }
    w->failed = 0;
    return 0;
}

static int nn__words_argument(const nn_words *w, int fine) {
    nn_opts why = nn__why(w ? w->why : NULL, w ? w->why_size : 0);
    if (!w || !fine) return NN__FAIL(&why, NN_ERR_CALL, "an argument is NULL");
    if (!w->failed && w->slots) return 0;
    return NN__FAIL(&why, NN_ERR_CALL, "nn_words_begin or nn_words_add has failed before");
}

NNDEF int nn_words_add(nn_words *w, const char *text, size_t size) {
    int err = nn__words_argument(w, text || !size);
    nn__chars s, word;
    uint32_t hash, slot, id;
    size_t n;
    if (err) return err;
    s = nn__chars_of(&w->t, text, size);
    while ((n = nn__next_word(&s, &word, &hash)) != 0) {
        unsigned char *to;
        id = nn__find_word(&w->t, &word, n, hash, &slot);
        if (id) {
            unsigned char *count = w->counts + 4 * (size_t)(id - 1);
            uint32_t times = nn__get32(count);
            if (times < UINT32_MAX) nn__put32(count, times + 1);
            continue;
        }
        if (w->t.words == w->words_max ||
            n > w->bytes_max - nn__word_end(&w->t, w->t.words)) {
            nn_opts why = nn__why(w->why, w->why_size);
            w->failed = NN_ERR_MEMORY;
            return NN__FAIL(&why, NN_ERR_MEMORY,
                            "the block is for %D words of %D bytes together, and more came",
                            (int64_t)w->words_max, (int64_t)w->bytes_max);
        }
        to = nn__append_word(w, slot, n, 1);
        while ((n = nn__next_char(&word, to)) != 0) to += n;
    }
    return 0;
}

/* Does the word of index a have a smaller id than that of b? */
static int nn__ranks_before(const nn_words *w, uint32_t a, uint32_t b) {
    uint32_t times_a = nn__get32(w->counts + 4 * (size_t)a);
    uint32_t times_b = nn__get32(w->counts + 4 * (size_t)b);
    return times_a != times_b ? times_a > times_b : a < b;
}

/* Sinks index into the heap order[at..n), whose root has the largest id. */
static void nn__sink_word(nn_words *w, uint32_t at, uint32_t n, uint32_t index) {
    uint32_t child;
    while ((child = 2 * at + 1) < n) {
        uint32_t a = nn__get32(w->order + 4 * (size_t)child), b;
        if (child + 1 < n) {
            b = nn__get32(w->order + 4 * (size_t)(child + 1));
            if (nn__ranks_before(w, a, b)) a = b, child++;
        }
        if (!nn__ranks_before(w, index, a)) break;
        nn__put32(w->order + 4 * (size_t)at, a);
        at = child;
    }
    nn__put32(w->order + 4 * (size_t)at, index);
}

/* The indices of all words by falling frequency into w->order. */
static void nn__rank_words(nn_words *w) {
    uint32_t n = w->t.words, i;
    for (i = 0; i < n; i++) nn__put32(w->order + 4 * (size_t)i, i);
    for (i = n / 2; i-- > 0;) nn__sink_word(w, i, n, i);
    for (i = n; i-- > 1;) {
        uint32_t last = nn__get32(w->order + 4 * (size_t)i);
        nn__put32(w->order + 4 * (size_t)i, nn__get32(w->order));
        nn__sink_word(w, 0, i, last);
    }
}

NNDEF int64_t nn_words_save(nn_words *w, void *out, size_t size) {
    unsigned char *p = (unsigned char *)out, *slots, *ends, *bytes;
    uint32_t keep, slot_count, i, end = 0;
    uint64_t need, total = 0;
    int err = nn__words_argument(w, 1);
    if (err) return err;
    keep = w->t.words;
    if (w->num_words && keep > w->num_words - 1) keep = w->num_words - 1;
    nn__rank_words(w);
    for (i = 0; i < keep; i++) {
        uint32_t index = nn__get32(w->order + 4 * (size_t)i);
        total += nn__word_end(&w->t, index + 1) - nn__word_end(&w->t, index);
    }
    slot_count = nn__slots_of(keep);
    need = NN__IMAGE_HEAD + (uint64_t)w->t.filters_size + 4 * ((uint64_t)slot_count + keep) + total;
    if (!p) return (int64_t)need;
    if (need > size) {
        nn_opts why = nn__why(w->why, w->why_size);
        return NN__FAIL(&why, NN_ERR_MEMORY, "the vocabulary takes %D bytes, not %D",
                        (int64_t)need, (int64_t)size);
    }
    NN_MEMCPY(p, "nnw1", 4);
    nn__put32(p + 4, keep);
    nn__put32(p + 8, w->t.filters_size);
    nn__put32(p + 12, (uint32_t)(w->t.keep_case | w->t.oov << 1 | w->t.split << 8));
    NN_MEMCPY(p + NN__IMAGE_HEAD, w->t.filters, w->t.filters_size);
    slots = p + NN__IMAGE_HEAD + w->t.filters_size;
    ends = slots + 4 * (size_t)slot_count;
    bytes = ends + 4 * (size_t)keep;
    NN_MEMSET(slots, 0, 4 * (size_t)slot_count);
    for (i = 0; i < keep; i++) {
        uint32_t index = nn__get32(w->order + 4 * (size_t)i), begin = nn__word_end(&w->t, index);
        uint32_t n = nn__word_end(&w->t, index + 1) - begin, slot;
        NN_MEMCPY(bytes + end, w->bytes + begin, n);
        slot = nn__home(nn__hash_done(nn__hash_word(NN__WORD_HASH, bytes + end, n)), slot_count);
        while (nn__get32(slots + 4 * (size_t)slot))
            if (++slot == slot_count) slot = 0;
        nn__put32(slots + 4 * (size_t)slot, i + 1);
        end += n;
        nn__put32(ends + 4 * (size_t)i, end);
    }
    return (int64_t)need;
}
#endif

/* Is every word found where the table says, and nothing else in it? The steps are bounded, so that
   a table made to be slow is refused instead of searched. */
static int nn__check_slots(const nn_tokenizer *t) {
    uint64_t steps = 64 * ((uint64_t)t->words + 64);
    uint32_t id, slot, used = 0;
    for (slot = 0; slot < t->slot_count; slot++) {
        id = nn__get32(t->slots + 4 * (size_t)slot);
        if (id > t->words) return 0;
        used += id != 0;
    }
    if (used != t->words) return 0;
    for (id = 1; id <= t->words; id++) {
        uint32_t begin = nn__word_end(t, id - 1), n = nn__word_end(t, id) - begin, found;
        const unsigned char *word = t->bytes + begin;
        slot = nn__home(nn__hash_done(nn__hash_word(NN__WORD_HASH, word, n)), t->slot_count);
        while ((found = nn__get32(t->slots + 4 * (size_t)slot)) != id) {
            uint32_t i = 0, other;
            if (!found || !steps--) return 0;
            other = nn__word_end(t, found - 1);
            if (nn__word_end(t, found) - other == n)
                while (i < n && t->bytes[other + i] == word[i]) i++;
            if (i == n) return 0; /* the same word twice */
            if (++slot == t->slot_count) slot = 0;
        }
    }
    return 1;
}

NNDEF int nn_tokenizer_load(nn_tokenizer *t, const void *image, size_t size, const nn_opts *o) {
    const unsigned char *p = (const unsigned char *)image;
    uint32_t flags, begin = 0, i;
    uint64_t tables;
    nn_tokenizer v;
    if (!t || !p) return NN__FAIL(o, NN_ERR_CALL, "t or the vocabulary is NULL");
    NN_MEMSET(t, 0, sizeof *t);
    NN_MEMSET(&v, 0, sizeof v);
    if (size < NN__IMAGE_HEAD || p[0] != 'n' || p[1] != 'n' || p[2] != 'w')
        return NN__FAIL(o, NN_ERR_FILE_SYNTAX, "this is no vocabulary: it does not begin with nnw");
    if (p[3] != '1')
        return NN__FAIL(o, NN_ERR_FILE_VERSION, "the vocabulary needs a newer reader");
    v.words = nn__get32(p + 4);
    v.filters_size = nn__get32(p + 8);
    flags = nn__get32(p + 12);
    if (v.words > NN__WORDS_MAX || flags >> 15 || (flags & 0xfc) || !(flags >> 8) ||
        ((flags & 2) && !v.words))
        return NN__FAIL(o, NN_ERR_FILE_META, "the vocabulary's header is wrong");
    v.slot_count = nn__slots_of(v.words);
    tables = 4 * ((uint64_t)v.slot_count + v.words);
    if (size - NN__IMAGE_HEAD < v.filters_size ||
        size - NN__IMAGE_HEAD - v.filters_size < tables)
        return NN__FAIL(o, NN_ERR_FILE_SHORT, "the vocabulary of %D words has only %D bytes",
                        (int64_t)v.words, (int64_t)size);
    v.filters = p + NN__IMAGE_HEAD;
    v.slots = v.filters + v.filters_size;
    v.ends = v.slots + 4 * (size_t)v.slot_count;
    v.bytes = v.slots + (size_t)tables;
    for (i = 1; i <= v.words; i++) {
        uint32_t end = nn__word_end(&v, i);
        if (end <= begin)
            return NN__FAIL(o, NN_ERR_FILE_SIZE, "word %D ends where it begins, or before",
                            (int64_t)i);
        begin = end;
    }
    if (begin != size - NN__IMAGE_HEAD - v.filters_size - (size_t)tables)
        return NN__FAIL(o, NN_ERR_FILE_END, "the vocabulary does not end with its last word");
    if (!nn__check_slots(&v))
        return NN__FAIL(o, NN_ERR_FILE_ORDER,
                        "the vocabulary's table misses a word, or a word stands twice");
    v.keep_case = (uint8_t)(flags & 1);
    v.oov = (uint8_t)(flags >> 1 & 1);
    v.split = (uint8_t)(flags >> 8);
    nn__set_separators(&v);
    *t = v;
    return 0;
}

static void nn__reverse(int32_t *a, int32_t n) {
    int32_t i = 0;
    while (i < --n) {
        int32_t keep = a[i];
        a[i++] = a[n];
        a[n] = keep;
    }
}

NNDEF int32_t nn_tokenizer_ids(const nn_tokenizer *t, const char *text, size_t size, int32_t *ids,
                               int32_t steps, int pad, int cut) {
    nn__chars s, word;
    int32_t count = 0, next = 0, i;
    uint32_t hash, id;
    size_t n;
    if (!t || !t->slots || (!text && size) || (ids && steps < 1)) return NN_ERR_CALL;
    s = nn__chars_of(t, text, size);
    while ((n = nn__next_word(&s, &word, &hash)) != 0) {
        id = nn__find_word(t, &word, n, hash, NULL);
        if (!id) id = t->oov;
        if (!id) continue;
        if (ids) { /* around the end; the oldest is overwritten */
            if (next == steps) next = 0;
            ids[next++] = (int32_t)id;
            if (count < steps) count++;
            if (count == steps && cut == NN_POST) break;
        } else if (count < INT32_MAX) {
            count++;
        }
    }
    if (!ids) return count;
    if (count == steps) { /* the oldest stands behind the newest */
        nn__reverse(ids, next);
        nn__reverse(ids + next, steps - next);
        nn__reverse(ids, steps);
    } else if (pad != NN_POST) {
        for (i = count; i-- > 0;) ids[steps - count + i] = ids[i];
        for (i = 0; i < steps - count; i++) ids[i] = 0;
    } else {
        for (i = count; i < steps; i++) ids[i] = 0;
    }
    return count;
}

NNDEF const char *nn_tokenizer_word(const nn_tokenizer *t, int32_t id, size_t *size) {
    uint32_t begin;
    if (!t || id < 1 || (uint32_t)id > t->words) return NULL;
    begin = nn__word_end(t, (uint32_t)id - 1);
    if (size) *size = nn__word_end(t, (uint32_t)id) - begin;
    return (const char *)(const void *)(t->bytes + begin);
}

/* >>debug ---------------------------------------------------------------------------------------
   The rows with what planning found out, for people. Uses >>data. */

NNDEF uint64_t nn_rows_hash(const nn_layer *rows) {
    nn__text t = nn__text_to(NULL, 0);
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    if (!rows) return 0;
    t.sink = nn__hash_bytes;
    t.user = &hash;
    nn__put_rows(&t, rows);
    return hash;
}

#ifndef NN_NO_STRINGS
#ifndef NN_NO_STDIO
static int nn__write_stdout(void *user, const void *bytes, size_t size) {
    (void)user;
    return fwrite(bytes, 1, size, stdout) != size;
}
#else
static int nn__write_stdout(void *user, const void *bytes, size_t size) {
    (void)user, (void)bytes, (void)size;
    return -1;
}
#endif

/* A column of the table: text, then spaces up to width. */
static void nn__pad_to(nn__text *t, size_t start, size_t width) {
    do nn__put(t, " ", 1);
    while (t->len - start < width);
}

NNDEF int nn_print(const nn_model *m, nn_write_fn *write, void *user) {
    nn__sink s;
    nn__text t = nn__text_to(NULL, 0);
    int64_t parameters = 0, trained = 0;
    uint32_t i;
    int k, err = nn__argument(m, 1, "");
    if (err) return err;
    NN_MEMSET(&s, 0, sizeof s);
    s.write = write ? write : nn__write_stdout;
    s.user = user;
    t.sink = nn__sink_bytes;
    t.user = &s;
    nn__puts(&t, "row  name              op             output        parameters\n");
    for (i = 0; i < m->row_count; i++) {
        const nn_row *r = &m->row[i];
        int64_t count = 0;
        size_t start = t.len;
        for (k = 0; k < r->tensors; k++) {
            const nn_tensor *own = &m->tensor[r->tensor + k];
            count += own->count;
            if (own->alias != r->tensor + k) continue;
            parameters += own->count;
            if (own->flags & NN__IS_TRAINED) trained += own->count;
        }
        nn__putd(&t, i);
        nn__pad_to(&t, start, 5);
        nn__put_name(&t, m->rows, i);
        nn__pad_to(&t, start, 23);
        nn__puts(&t, m->rows[i].op->name);
        nn__pad_to(&t, start, 38);
        nn__put_shape(&t, r);
        nn__pad_to(&t, start, 52);
        nn__putd(&t, count);
        if (r->flags & NN__SHARES) nn__puts(&t, " shared");
        if (r->flags & NN__TRAINS) nn__puts(&t, " trains");
        nn__puts(&t, "\n");
    }
    nn__putd(&t, parameters);
    nn__puts(&t, " parameters, ");
    nn__putd(&t, trained);
    nn__puts(&t, " of them train; block of ");
    nn__putd(&t, (int64_t)m->block_size);
    nn__puts(&t, " bytes\n");
    nn__flush(&s);
    return s.failed ? NN__FAIL(&m->opts, NN_ERR_IO, "writing failed") : 0;
}
#endif

#if defined(NN_NO_PLANNER) && defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
NN__SMALL_END
/* >>stamps --------------------------------------------------------------------------------------
   Part 4 once per instruction set, and the choice between them. */

#ifndef NN_HEADER
#define NN_HEADER "nn.h"
#endif

#define NN__STAMP plain
#define NN__ISA NN__PLAIN_C
#define NN__TARGET
#define NN__NAME "plain"
#define NN__FMA(a, b, c) NN__FMA1(a, b, c)
#include NN_HEADER

/* Vector kernels are always optimized as at -O2: gcc -O1 and -Os leave out vzeroupper, after which
   scalar code runs at a fifth of its speed, and -Os loads operands again for every use. */
#if NN__DISPATCH && defined(__OPTIMIZE__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O2", "fp-contract=off")
#define NN__POP_OPTIONS 1
#else
#define NN__POP_OPTIONS 0
#endif
#if NN__X86
#define NN__STAMP avx2
#define NN__ISA NN__AVX2
#define NN__TARGET __attribute__((target("avx2,fma")))
#define NN__NAME "avx2"
#include NN_HEADER
#define NN__STAMP avx512
#define NN__ISA NN__AVX512
#define NN__TARGET __attribute__((target("avx512f,avx2,fma")))
#define NN__NAME "avx512"
#include NN_HEADER

#elif NN__X86_FMA
#define NN__STAMP fma
#define NN__ISA NN__PLAIN_C
#define NN__TARGET __attribute__((target("fma,prefer-vector-width=128")))
#define NN__NAME "fma"
#define NN__FMA(a, b, c) __builtin_fmaf(a, b, c)
#include NN_HEADER
#elif NN__ARM64
#define NN__STAMP neon
#define NN__ISA NN__NEON
#define NN__TARGET
#define NN__NAME "neon"
#include NN_HEADER
#endif
#if NN__POP_OPTIONS
#pragma GCC pop_options
#endif

#if NN__X86
/* The fastest, or those called name, that the CPU can run; NULL: none. */
static const nn_kernels *nn__find_kernels(const char *name) {
    int avx2, avx512;
    __builtin_cpu_init();
    avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    avx512 = avx2 && __builtin_cpu_supports("avx512f");
    if (avx512 && (!name || nn__same("avx512", name))) return &nn__kernels_avx512;
    if (avx2 && (!name || nn__same("avx2", name))) return &nn__kernels_avx2;
    return !name || nn__same("plain", name) ? &nn__kernels_plain : NULL;
}
#elif NN__X86_FMA
static const nn_kernels *nn__find_kernels(const char *name) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("fma") && (!name || nn__same("fma", name))) return &nn__kernels_fma;
    return !name || nn__same("plain", name) ? &nn__kernels_plain : NULL;
}
#elif NN__ARM64
static const nn_kernels *nn__find_kernels(const char *name) {
    if (!name || nn__same("neon", name)) return &nn__kernels_neon;
    return nn__same("plain", name) ? &nn__kernels_plain : NULL;
}
#else
/* They are called directly, since a table would keep them all linked: this is only their name. */
static const nn_kernels *nn__find_kernels(const char *name) {
    static const nn_kernels plain = { "plain" };
    return !name || nn__same("plain", name) ? &plain : NULL;
}
#endif

NNDEF const char *nn_kernels_name(const nn_model *m) {
    return m && m->kernels ? m->kernels->name : NULL;
}

NNDEF int nn_set_kernels(nn_model *m, const char *name) {
    const nn_kernels *found = nn__find_kernels(name);
    int err = nn__argument(m, 1, "");
    if (!err && !found)
        err = NN__FAIL(&m->opts, NN_ERR_CALL, "no kernels %s in this build on this machine", name);
    if (!err) m->kernels = found;
    return err;
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
#endif /* NN_IMPLEMENTATION */

/* ==========================================================================================
   Part 4: kernels
   ========================================================================================== */

/* This part is stamped once per instruction set, by the header including itself (see >>stamps at
   the end of Part 3) with NN__STAMP the stamp's name and NN__TARGET its function attribute. Every
   kernel is written once over the vocabulary below; all stamps give the same bits, because lanes go
   across outputs, every sum has one order, and a product meets a sum only inside NN__FMA. */
#ifdef NN__STAMP

/* >>vector --------------------------------------------------------------------------------------
   The vocabulary, once for each instruction set. w, where it appears, is a count of lanes from 1 to
   NN__WIDTH; a load sets the others to +0, a store leaves them alone.

     NN__V                   the vector type, of NN__WIDTH floats; 16 / NN__WIDTH are NN__VECS
     NN__ID(name)            the name of a function in this stamp
     NN__LOAD(p, w)          unaligned; NN__BYTES(p, w) the same from bytes
     NN__STORE(p, v, w)
     NN__SPREAD(x)           one value in every lane
     NN__K(v) NN__KBITS(u)   a constant in every lane: a float literal, or the bits of one
     NN__ADD SUB MUL DIV     one IEEE operation each, rounded to float; NN__ROOT: the square root
     NN__FMA(a, b, c)        a * b + c, rounded once
     NN__SEL_GT(x, y, a, b)  x > y ? a : b, so b if either is a NaN
     NN__SEL_NAN(x, a, b)    x is a NaN ? a : b
     NN__RELU(x)             0 > x ? 0 : x
     NN__GT_BITS(x, y)       bit l: lane l of x > y; NN__NAN_LANES(x): is any a NaN?
     NN__PICK(bits, v)       the lanes of v whose bit is set, others +0
     NN__BITS_ADD AND OR     of the lanes as 32-bit words; NN__BITS_SHL and SHR by a constant
     NN__SUM16(s)            of 16 lanes in s[NN__VECS]: halves are added until one is left
     NN__TRANSPOSE4(...)     to[i * ts + j] = from[j * fs + i] for 4 x 4 floats

   and of the product kernels: NN__TILES, what tiles there are (rows, vectors), of 1, 2, 4, ...
   rows; NN__TILE_ROWS(n), the most rows of those of n vectors; NN__TILE_AT(n), their place in the
   list; NN__LANE_TILES, those of sums in 16 lanes. */

#define NN__PASTE2(a, b, c) a##b##_##c
#define NN__PASTE(a, b, c) NN__PASTE2(a, b, c)
#define NN__ID(name) NN__PASTE(nn__, name, NN__STAMP)
#define NN__KERNEL NN__UNUSED NN__TARGET static
#define NN__KERNEL_INLINE NN__TARGET NN__INLINE

#if NN__ISA == NN__PLAIN_C
#define NN__V float
#define NN__WIDTH 1
#define NN__VECS 16
#define NN__LOAD(p, w) ((void)(w), *(p))
#define NN__BYTES(p, w) ((void)(w), (float)*(p))
#define NN__STORE(p, v, w) ((void)(w), *(p) = (v))
#define NN__SPREAD(x) (x)
#define NN__K(v) (v)
#define NN__KBITS(u) nn__from_bits(u)
#define NN__ADD(a, b) ((float)((a) + (b)))
#define NN__SUB(a, b) ((float)((a) - (b)))
#define NN__MUL(a, b) ((float)((a) * (b)))
#define NN__DIV(a, b) ((float)((a) / (b)))
#define NN__ROOT(a) nn__sqrt(a)
#define NN__SEL_GT(x, y, a, b) ((x) > (y) ? (a) : (b))
#define NN__SEL_NAN(x, a, b) ((x) != (x) ? (a) : (b))
#define NN__GT_BITS(x, y) ((uint32_t)((x) > (y)))
#define NN__NAN_LANES(x) ((x) != (x))
#define NN__RELU(x) (0.0f > (x) ? 0.0f : (x))
#define NN__PICK(bits, v) ((bits)&1u ? (v) : 0.0f)
#define NN__BITS_ADD(a, b) nn__from_bits(nn__bits(a) + nn__bits(b))
#define NN__BITS_AND(a, b) nn__from_bits(nn__bits(a) & nn__bits(b))
#define NN__BITS_OR(a, b) nn__from_bits(nn__bits(a) | nn__bits(b))
#define NN__BITS_SHL(a, n) nn__from_bits(nn__bits(a) << (n))
#define NN__BITS_SHR(a, n) nn__from_bits(nn__bits(a) >> (n))
NN__KERNEL_INLINE float NN__ID(sum16)(float *s) {
    int half, l;
    for (half = NN__LANES / 2; half; half /= 2)
        for (l = 0; l < half; l++) s[l] = NN__ADD(s[l], s[l + half]);
    return s[0];
}
#define NN__SUM16(s) NN__ID(sum16)(s)
NN__KERNEL_INLINE void NN__ID(transpose4)(float *to, ptrdiff_t ts, const float *from,
                                          ptrdiff_t fs) {
    int i, j;
    for (j = 0; j < 4; j++)
        for (i = 0; i < 4; i++) to[i * ts + j] = from[j * fs + i];
}
#define NN__TRANSPOSE4(to, ts, from, fs) NN__ID(transpose4)(to, ts, from, fs)
/* Few registers, small code. */
#define NN__TILES(X) X(1, 4) X(2, 4) X(1, 1)
#define NN__TILE_ROWS(n) ((n) == 4 ? 2 : 1)
#define NN__TILE_AT(n) ((n) == 4 ? 0 : 2)

#elif NN__ISA == NN__AVX2
#define NN__V __m256
#define NN__WIDTH 8
#define NN__VECS 2
#define NN__LANE_TILES(X) X(2, 4) X(4, 2) X(1, 2)
NN__KERNEL_INLINE __m256i NN__ID(mask)(int w) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(w), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
NN__KERNEL_INLINE __m256 NN__ID(load)(const float *p, int w) {
    return w == 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, NN__ID(mask)(w));
}
NN__KERNEL_INLINE void NN__ID(store)(float *p, __m256 v, int w) {
    if (w == 8) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, NN__ID(mask)(w), v);
}
NN__KERNEL_INLINE __m256 NN__ID(bytes)(const unsigned char *p, int w) {
    uint64_t b = 0;
    NN_MEMCPY(&b, p, (size_t)w);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_set_epi64x(0, (int64_t)b)));
}
NN__KERNEL_INLINE __m256 NN__ID(pick)(uint32_t bits, __m256 v) {
    __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i have = _mm256_and_si256(_mm256_set1_epi32((int)bits), bit);
    return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(have, bit)), v);
}
NN__KERNEL_INLINE float NN__ID(sum16)(const __m256 *s) {
    __m256 v = s[0] + s[1];
    __m128 x = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
    x = x + _mm_movehl_ps(x, x);
    x = _mm_add_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}
#define NN__LOAD(p, w) NN__ID(load)(p, w)
#define NN__STORE(p, v, w) NN__ID(store)(p, v, w)
#define NN__BYTES(p, w) NN__ID(bytes)(p, w)
#define NN__SPREAD(x) _mm256_set1_ps(x)
#define NN__KBITS(u) _mm256_castsi256_ps(_mm256_set1_epi32((int)(u)))
#define NN__ROOT(a) _mm256_sqrt_ps(a)
#define NN__FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define NN__SEL_GT(x, y, a, b) _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_GT_OQ))
#define NN__SEL_NAN(x, a, b) _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, x, _CMP_UNORD_Q))
#define NN__GT_BITS(x, y) ((uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ)))
#define NN__NAN_LANES(x) (_mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0)
#define NN__RELU(x) _mm256_max_ps(_mm256_setzero_ps(), x) /* the second if none is larger */
#define NN__PICK(bits, v) NN__ID(pick)(bits, v)
#define NN__BITS_OP(op, a, b) \
    _mm256_castsi256_ps(_mm256_##op(_mm256_castps_si256(a), _mm256_castps_si256(b)))
#define NN__BITS_ADD(a, b) NN__BITS_OP(add_epi32, a, b)
#define NN__BITS_AND(a, b) _mm256_and_ps(a, b)
#define NN__BITS_OR(a, b) _mm256_or_ps(a, b)
#define NN__BITS_SHL(a, n) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), n))
#define NN__BITS_SHR(a, n) _mm256_castsi256_ps(_mm256_srli_epi32(_mm256_castps_si256(a), n))
#define NN__SUM16(s) NN__ID(sum16)(s)
#define NN__TILES(X) X(1, 2) X(2, 2) X(4, 2) X(6, 2)
#define NN__TILE_ROWS(n) ((void)(n), 6)
#define NN__TILE_AT(n) 0

#elif NN__ISA == NN__AVX512
#define NN__V __m512
#define NN__WIDTH 16
#define NN__VECS 1
#define NN__LANE_TILES(X) X(4, 4) X(8, 1) X(1, 1)
/* The forms with a mask of all lanes give the same instructions; gcc warns in C++ of the undefined
   values that it puts into those without one (its bug 105593). */
#define NN__ALL ((__mmask16)0xffff)
#define NN__MASK(w) ((__mmask16)((1u << (w)) - 1u))
NN__KERNEL_INLINE __m512 NN__ID(load)(const float *p, int w) {
    return w == 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(NN__MASK(w), p);
}
NN__KERNEL_INLINE void NN__ID(store)(float *p, __m512 v, int w) {
    if (w == 16) _mm512_storeu_ps(p, v);
    else _mm512_mask_storeu_ps(p, NN__MASK(w), v);
}
NN__KERNEL_INLINE __m512 NN__ID(bytes)(const unsigned char *p, int w) {
    unsigned char b[16] = { 0 };
    if (w < 16) {
        NN_MEMCPY(b, p, (size_t)w);
        p = b;
    }
    return _mm512_maskz_cvtepi32_ps(
        NN__ALL,
        _mm512_maskz_cvtepu8_epi32(NN__ALL, _mm_loadu_si128((const __m128i *)(const void *)p)));
}
NN__KERNEL_INLINE float NN__ID(sum16)(const __m512 *s) {
    __m512d d = _mm512_castps_pd(*s);
    __m256 v = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, d, 0)) +
               _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, d, 1));
    __m128 x = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
    x = x + _mm_movehl_ps(x, x);
    x = _mm_add_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}
#define NN__LOAD(p, w) NN__ID(load)(p, w)
#define NN__STORE(p, v, w) NN__ID(store)(p, v, w)
#define NN__BYTES(p, w) NN__ID(bytes)(p, w)
#define NN__SPREAD(x) _mm512_set1_ps(x)
#define NN__KBITS(u) _mm512_castsi512_ps(_mm512_set1_epi32((int)(u)))
#define NN__ROOT(a) _mm512_maskz_sqrt_ps(NN__ALL, a)
#define NN__FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define NN__SEL_GT(x, y, a, b) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ), b, a)
#define NN__SEL_NAN(x, a, b) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, a)
#define NN__GT_BITS(x, y) ((uint32_t)_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ))
#define NN__NAN_LANES(x) (_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0)
#define NN__RELU(x) \
    _mm512_maskz_max_ps(NN__ALL, _mm512_setzero_ps(), x) /* the second if none is larger */
#define NN__PICK(bits, v) _mm512_maskz_mov_ps((__mmask16)(bits), v)
#define NN__BITS_OP(op, a, b) \
    _mm512_castsi512_ps(_mm512_##op(_mm512_castps_si512(a), _mm512_castps_si512(b)))
#define NN__BITS_ADD(a, b) NN__BITS_OP(add_epi32, a, b)
#define NN__BITS_AND(a, b) NN__BITS_OP(and_epi32, a, b)
#define NN__BITS_OR(a, b) NN__BITS_OP(or_epi32, a, b)
#define NN__BITS_SHL(a, n) \
    _mm512_castsi512_ps(_mm512_maskz_slli_epi32(NN__ALL, _mm512_castps_si512(a), n))
#define NN__BITS_SHR(a, n) \
    _mm512_castsi512_ps(_mm512_maskz_srli_epi32(NN__ALL, _mm512_castps_si512(a), n))
#define NN__SUM16(s) NN__ID(sum16)(s)
/* clang-format off */
#define NN__TILES(X)                                           \
    X(1, 4) X(2, 4) X(4, 4) X(6, 4)                            \
    X(1, 2) X(2, 2) X(4, 2) X(6, 2) X(8, 2) X(10, 2) X(12, 2)  \
    X(1, 1) X(2, 1) X(4, 1) X(6, 1) X(8, 1) X(10, 1) X(1, 8)
/* clang-format on */
#define NN__TILE_ROWS(n) ((n) == 8 ? 1 : (n) == 4 ? 6 : (n) == 2 ? 12 : 10)
#define NN__TILE_AT(n) ((n) == 8 ? 17 : (n) == 4 ? 0 : (n) == 2 ? 4 : 11)

#elif NN__ISA == NN__NEON
#define NN__V float32x4_t
#define NN__WIDTH 4
#define NN__VECS 4
#define NN__LANE_TILES(X) X(4, 4) X(1, 4)
NN__KERNEL_INLINE float32x4_t NN__ID(load)(const float *p, int w) {
    float v[4] = { 0, 0, 0, 0 };
    if (w == 4) return vld1q_f32(p);
    NN_MEMCPY(v, p, 4 * (size_t)w);
    return vld1q_f32(v);
}
NN__KERNEL_INLINE void NN__ID(store)(float *p, float32x4_t x, int w) {
    float v[4];
    vst1q_f32(w == 4 ? p : v, x);
    if (w != 4) NN_MEMCPY(p, v, 4 * (size_t)w);
}
NN__KERNEL_INLINE float32x4_t NN__ID(bytes)(const unsigned char *p, int w) {
    uint32_t b = 0;
    NN_MEMCPY(&b, p, (size_t)w);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(b)))));
}
NN__KERNEL_INLINE uint32x4_t NN__ID(each_bit)(void) {
    static const uint32_t bit[4] = { 1, 2, 4, 8 };
    return vld1q_u32(bit);
}
NN__KERNEL_INLINE float32x4_t NN__ID(pick)(uint32_t bits, float32x4_t v) {
    uint32x4_t mask = vtstq_u32(vdupq_n_u32(bits), NN__ID(each_bit)());
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), mask));
}
NN__KERNEL_INLINE float NN__ID(sum16)(const float32x4_t *s) {
    float32x4_t v = vaddq_f32(vaddq_f32(s[0], s[2]), vaddq_f32(s[1], s[3]));
    float32x2_t x = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(vadd_f32(x, vrev64_f32(x)), 0);
}
NN__KERNEL_INLINE void NN__ID(transpose4)(float *to, ptrdiff_t ts, const float *from,
                                          ptrdiff_t fs) {
    float32x4x2_t a = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + fs));
    float32x4x2_t b = vtrnq_f32(vld1q_f32(from + 2 * fs), vld1q_f32(from + 3 * fs));
    vst1q_f32(to, vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0])));
    vst1q_f32(to + ts, vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1])));
    vst1q_f32(to + 2 * ts, vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0])));
    vst1q_f32(to + 3 * ts, vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1])));
}
#define NN__LOAD(p, w) NN__ID(load)(p, w)
#define NN__STORE(p, v, w) NN__ID(store)(p, v, w)
#define NN__BYTES(p, w) NN__ID(bytes)(p, w)
#define NN__SPREAD(x) vdupq_n_f32(x)
#define NN__KBITS(u) vreinterpretq_f32_u32(vdupq_n_u32(u))
#define NN__ADD(a, b) vaddq_f32(a, b)
#define NN__SUB(a, b) vsubq_f32(a, b)
#define NN__MUL(a, b) vmulq_f32(a, b)
#define NN__DIV(a, b) vdivq_f32(a, b)
#define NN__ROOT(a) vsqrtq_f32(a)
#define NN__FMA(a, b, c) vfmaq_f32(c, a, b)
#define NN__SEL_GT(x, y, a, b) vbslq_f32(vcgtq_f32(x, y), a, b)
#define NN__SEL_NAN(x, a, b) vbslq_f32(vceqq_f32(x, x), b, a)
#define NN__GT_BITS(x, y) vaddvq_u32(vandq_u32(vcgtq_f32(x, y), NN__ID(each_bit)()))
#define NN__NAN_LANES(x) (vminvq_u32(vceqq_f32(x, x)) == 0)
#define NN__RELU(x) vbslq_f32(vcgtq_f32(vdupq_n_f32(0), x), vdupq_n_f32(0), x)
#define NN__PICK(bits, v) NN__ID(pick)(bits, v)
#define NN__BITS_OP(op, a, b) \
    vreinterpretq_f32_u32(op(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)))
#define NN__BITS_ADD(a, b) NN__BITS_OP(vaddq_u32, a, b)
#define NN__BITS_AND(a, b) NN__BITS_OP(vandq_u32, a, b)
#define NN__BITS_OR(a, b) NN__BITS_OP(vorrq_u32, a, b)
#define NN__BITS_SHL(a, n) vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), n))
#define NN__BITS_SHR(a, n) vreinterpretq_f32_u32(vshrq_n_u32(vreinterpretq_u32_f32(a), n))
#define NN__SUM16(s) NN__ID(sum16)(s)
#define NN__TRANSPOSE4(to, ts, from, fs) NN__ID(transpose4)(to, ts, from, fs)
#define NN__TILES(X) X(1, 4) X(2, 4) X(4, 4) X(6, 4)
#define NN__TILE_ROWS(n) ((void)(n), 6)
#define NN__TILE_AT(n) 0
#endif

#if NN__ISA == NN__AVX2 || NN__ISA == NN__AVX512
#define NN__ADD(a, b) ((a) + (b))
#define NN__SUB(a, b) ((a) - (b))
#define NN__MUL(a, b) ((a) * (b))
#define NN__DIV(a, b) ((a) / (b))
NN__KERNEL_INLINE void NN__ID(transpose4)(float *to, ptrdiff_t ts, const float *from,
                                          ptrdiff_t fs) {
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + fs), c = _mm_loadu_ps(from + 2 * fs),
           d = _mm_loadu_ps(from + 3 * fs);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + ts, b);
    _mm_storeu_ps(to + 2 * ts, c);
    _mm_storeu_ps(to + 3 * ts, d);
}
#define NN__TRANSPOSE4(to, ts, from, fs) NN__ID(transpose4)(to, ts, from, fs)
#endif

#if NN__WIDTH > 1
#define NN__K(v) NN__SPREAD(v)
#define NN__PREFETCH(p) __builtin_prefetch(p, 0, 2)
#define NN__LEFT(n) ((n) < NN__WIDTH ? (int)(n) : NN__WIDTH)
#else
#define NN__LEFT(n) 1
#define NN__PREFETCH(p) ((void)(p))
#endif

/* What follows from those: a with the sign bit of s; x * 2^n for m = NN__MAGIC + n (which holds the
   integer n in its low bits, rounded to nearest even, for |n| < 2^22), where x and the product must
   be normal numbers; for a positive normal x the n, as a float, that puts x * 2^-n into
   [sqrt(1/2), sqrt(2)), and that x * 2^-n; the first w lanes, others +0. */
#define NN__COPYSIGN(a, s) \
    NN__BITS_OR(NN__BITS_AND(a, NN__KBITS(0x7fffffffu)), NN__BITS_AND(s, NN__KBITS(0x80000000u)))
#define NN__SCALE(x, m) NN__BITS_ADD(x, NN__BITS_SHL(m, 23))
/* 0x4b400000 are the bits of NN__MAGIC, 127 the bias of the exponent */
#define NN__LOGB(x)                                                                   \
    NN__SUB(NN__BITS_ADD(NN__BITS_SHR(NN__BITS_ADD(x, NN__KBITS(NN__SQRT_HALF)), 23), \
                         NN__KBITS(0x4b400000u - 127u)),                              \
            NN__K(NN__MAGIC))
#define NN__MANT(x)                                                                             \
    NN__BITS_ADD(NN__BITS_AND(NN__BITS_ADD(x, NN__KBITS(NN__SQRT_HALF)), NN__KBITS(0x7fffffu)), \
                 NN__KBITS(0x3f3504f3u))
#define NN__FIRST(v, w) NN__PICK((1u << (w)) - 1u, v)

/* >>transcendental ------------------------------------------------------------------------------
   Coefficients are from tools/fit_math.py; the bounds are measured over every float by
   tests/test_math.c, in ulp of the exact result. */

/* exp on [-87.33654, 88.72283], between the last float whose exp is above 2^-126 and the last below
   2^128, below 0.90 ulp; exact at 0. Anything elsewhere.
   Method: x = n ln 2 + r with ln 2 in two parts (Cody and Waite), whose first has 15 bits so that
   n times it is exact; minimax polynomial in r; n added to the exponent. */
NN__KERNEL_INLINE NN__V NN__ID(exp_within)(NN__V x) {
    NN__V m, n, r, p;
    m = NN__FMA(x, NN__K(1.4426950216293335f), NN__K(NN__MAGIC));
    n = NN__SUB(m, NN__K(NN__MAGIC));
    r = NN__FMA(n, NN__K(-0.693145751953125f), x);
    r = NN__FMA(n, NN__K(-1.428606765330187e-06f), r);
    p = NN__FMA(r, NN__K(0.0013821168104186654f), NN__K(0.0083686653524637222f));
    p = NN__FMA(p, r, NN__K(0.041668258607387543f));
    p = NN__FMA(p, r, NN__K(0.1666652113199234f));
    p = NN__FMA(p, r, NN__K(0.49999994039535522f));
    p = NN__FMA(p, r, NN__K(1.0f));
    p = NN__FMA(p, r, NN__K(1.0f));
    return NN__SCALE(p, m);
}

/* exp up to 88.72283. Zero where the result would be subnormal, since some units flush those and
   some do not. A NaN takes the second choice each time, which keeps it. */
NN__KERNEL_INLINE NN__V NN__ID(exp_below)(NN__V x) {
    NN__V p = NN__ID(exp_within)(x);
    p = NN__SEL_GT(x, NN__K(-87.3365478515625f), p, x);
    return NN__SEL_GT(NN__K(-87.336540222167969f), x, NN__KBITS(0), p);
}

/* exp of anything; -inf, inf and NaN as usual. */
NN__KERNEL_INLINE NN__V NN__ID(exp)(NN__V x) {
    NN__V p = NN__ID(exp_below)(x);
    return NN__SEL_GT(x, NN__K(88.722831726074219f), NN__KBITS(NN__INF_BITS), p);
}

/* log, below 0.88 ulp over all positive floats. Subnormals are scaled first, exactly; exact at
   1; log(+-0) = -inf, log of less is NaN.
   Method: x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); f - f^2/2 + f^3 p(f), p minimax. The
   same split of ln 2 as in exp, the small parts added first. */
NN__KERNEL_INLINE NN__V NN__ID(log)(NN__V x) {
    NN__V y, n, f, ff, p, z;
    y = NN__MUL(x, NN__K(8388608.0f));
    y = NN__SEL_GT(NN__K(1.1754943508222875e-38f), x, y, x);
    n = NN__LOGB(y);
    z = NN__SUB(n, NN__K(23.0f));
    n = NN__SEL_GT(NN__K(1.1754943508222875e-38f), x, z, n);
    f = NN__MANT(y);
    f = NN__SUB(f, NN__K(1.0f));
    p = NN__FMA(f, NN__K(-0.076363623142242432f), NN__K(0.12762142717838287f));
    p = NN__FMA(p, f, NN__K(-0.13159598410129547f));
    p = NN__FMA(p, f, NN__K(0.14201585948467255f));
    p = NN__FMA(p, f, NN__K(-0.16623410582542419f));
    p = NN__FMA(p, f, NN__K(0.20001241564750671f));
    p = NN__FMA(p, f, NN__K(-0.25000819563865662f));
    p = NN__FMA(p, f, NN__K(0.33333331346511841f));
    p = NN__FMA(p, f, NN__K(-0.5f));
    ff = NN__MUL(f, f);
    z = NN__MUL(n, NN__K(1.428606765330187e-06f));
    p = NN__FMA(p, ff, z);
    p = NN__ADD(p, f);
    p = NN__FMA(n, NN__K(0.693145751953125f), p);
    /* Zeros give -inf here, NaNs themselves, and so does +inf below. */
    z = NN__SUB(x, NN__KBITS(NN__INF_BITS));
    z = NN__SEL_GT(NN__KBITS(0), x, NN__KBITS(NN__NAN_BITS), z);
    p = NN__SEL_GT(x, NN__KBITS(0), p, z);
    return NN__SEL_GT(x, NN__K(3.4028234663852886e+38f), x, p);
}

/* tanh, below 1.07 ulp, odd to the sign of zero, exactly +-1 from 9.02 on.
   Method: odd minimax polynomial below 0.71875, where 1 - 2 / (exp(2x) + 1) would cancel; that form
   above it, with exp of at most 20, where it is 1. */
NN__KERNEL_INLINE NN__V NN__ID(tanh)(NN__V x) {
    NN__V a, e, t, p, u;
    a = NN__BITS_AND(x, NN__KBITS(0x7fffffffu));
    u = NN__MUL(a, a);
    p = NN__FMA(u, NN__K(-0.0050001800991594791f), NN__K(0.019938884302973747f));
    p = NN__FMA(p, u, NN__K(-0.053501229733228683f));
    p = NN__FMA(p, u, NN__K(0.13328269124031067f));
    p = NN__FMA(p, u, NN__K(-0.33333152532577515f));
    p = NN__MUL(p, u);
    p = NN__FMA(p, a, a);
    e = NN__SEL_GT(a, NN__K(10.0f), NN__K(10.0f), a);
    e = NN__ADD(e, e);
    e = NN__ID(exp_within)(e);
    e = NN__ADD(e, NN__K(1.0f));
    t = NN__DIV(NN__K(2.0f), e);
    t = NN__SUB(NN__K(1.0f), t);
    t = NN__SEL_GT(a, NN__K(0.71875f), t, p); /* p of a NaN is one */
    return NN__COPYSIGN(t, x);
}

/* 1 / (1 + exp(-x)), below 2.41 ulp on [-87, 100]; 0 below -87.33, within [0, 1] everywhere.
   Only exp(-|x|) is taken, so nothing can overflow; the numerator picks the side. */
NN__KERNEL_INLINE NN__V NN__ID(sigmoid)(NN__V x) {
    NN__V e, d;
    e = NN__BITS_OR(x, NN__KBITS(0x80000000u));
    e = NN__ID(exp_below)(e);
    d = NN__ADD(e, NN__K(1.0f));
    e = NN__SEL_GT(x, NN__KBITS(0), NN__K(1.0f), e);
    return NN__DIV(e, d);
}

/* >>gemm ----------------------------------------------------------------------------------------
   The product that dense rows and convolutions are made of, see nn__gemm. A tile of C stays in
   registers while k runs; lanes go across columns, so tiles, blocks and packing never touch the
   order of a sum. */

/* A tile: up to NN__TILE_ROWS rows of C, each some vectors at distance cs; the vectors of B lie at
   distance bs. Rows of A come in pairs at distance ar, which halves the registers for them. */
typedef struct NN__ID(tile) {
    const float *a[12], *b, *bias;
    const float *ahead; /* fetched into the cache meanwhile, 16 floats a step of k */
    float *c[12];
    ptrdiff_t ar, ak[3], bk[3], bs, cs;
    int32_t n[3];
    uint8_t add, relu;
} NN__ID(tile);

/* Sums are named sROW_VECTOR: registers, whatever the compiler thinks of arrays. */
#define NN__C1(X, r) X(r, 0)
#define NN__C2(X, r) X(r, 0) X(r, 1)
#define NN__C4(X, r) NN__C2(X, r) X(r, 2) X(r, 3)
#define NN__C8(X, r) NN__C4(X, r) X(r, 4) X(r, 5) X(r, 6) X(r, 7)
#define NN__R1(X, n) X(0, n)
#define NN__R2(X, n) NN__R1(X, n) X(1, n)
#define NN__R3(X, n) NN__R2(X, n) X(2, n)
#define NN__R4(X, n) NN__R3(X, n) X(3, n)
#define NN__R5(X, n) NN__R4(X, n) X(4, n)
#define NN__R6(X, n) NN__R5(X, n) X(5, n)
#define NN__R7(X, n) NN__R6(X, n) X(6, n)
#define NN__R8(X, n) NN__R7(X, n) X(7, n)
#define NN__R9(X, n) NN__R8(X, n) X(8, n)
#define NN__R10(X, n) NN__R9(X, n) X(9, n)
#define NN__R11(X, n) NN__R10(X, n) X(10, n)
#define NN__R12(X, n) NN__R11(X, n) X(11, n)

#define NN__PAIR_0 a0
#define NN__PAIR_1 a0
#define NN__PAIR_2 a2
#define NN__PAIR_3 a2
#define NN__PAIR_4 a4
#define NN__PAIR_5 a4
#define NN__PAIR_6 a6
#define NN__PAIR_7 a6
#define NN__PAIR_8 a8
#define NN__PAIR_9 a8
#define NN__PAIR_10 a10
#define NN__PAIR_11 a10
#define NN__T_ROW(r, n) NN__UNUSED const float *a##r = t->a[r];
#define NN__T_ZERO1(r, v) NN__V s##r##_##v = NN__KBITS(0);
#define NN__T_ZERO(r, n) NN__C##n(NN__T_ZERO1, r)
#define NN__T_LOAD1(r, v) s##r##_##v = NN__LOAD(t->c[r] + v * t->cs, NN__WIDTH);
#define NN__T_LOAD(r, n) NN__C##n(NN__T_LOAD1, r)
#define NN__T_B(r, v) NN__V b##v = NN__LOAD(b + v * bs, NN__WIDTH);
#define NN__T_FMA1(r, v) s##r##_##v = NN__FMA(x, b##v, s##r##_##v);
#define NN__T_FMA(r, n)                                    \
    {                                                      \
        NN__V x = NN__SPREAD(NN__PAIR_##r[r % 2 ? j : i]); \
        NN__C##n(NN__T_FMA1, r)                            \
    }
#define NN__T_BIAS1(r, v) s##r##_##v = NN__ADD(s##r##_##v, b##v);
#define NN__T_BIAS(r, n) NN__C##n(NN__T_BIAS1, r)
#define NN__T_RELU1(r, v) s##r##_##v = NN__RELU(s##r##_##v);
#define NN__T_RELU(r, n) NN__C##n(NN__T_RELU1, r)
#define NN__T_STORE1(r, v) NN__STORE(t->c[r] + v * t->cs, s##r##_##v, NN__WIDTH);
#define NN__T_STORE(r, n) NN__C##n(NN__T_STORE1, r)

#define NN__DEFINE_TILE(rows, vecs)                                              \
    NN__KERNEL void NN__ID(tile_f32_##rows##x##vecs)(const NN__ID(tile) * t) {   \
        ptrdiff_t bs = t->bs, ak = t->ak[0], bk = t->bk[0];                      \
        int32_t k1, k2;                                                          \
        NN__R##rows(NN__T_ROW, vecs) NN__R##rows(NN__T_ZERO, vecs) if (t->add) { \
            NN__R##rows(NN__T_LOAD, vecs)                                        \
        }                                                                        \
        for (k2 = 0; k2 < t->n[2]; k2++)                                         \
            for (k1 = 0; k1 < t->n[1]; k1++) {                                   \
                ptrdiff_t i = k2 * t->ak[2] + k1 * t->ak[1], j = i + t->ar;      \
                const float *b = t->b + k2 * t->bk[2] + k1 * t->bk[1];           \
                const float *end = b + t->n[0] * bk, *ahead = t->ahead;          \
                for (; b != end; b += bk, i += ak, j += ak) {                    \
                    NN__PREFETCH(ahead);                                         \
                    ahead += NN__LANES;                                          \
                    NN__C##vecs(NN__T_B, 0) NN__R##rows(NN__T_FMA, vecs)         \
                }                                                                \
                (void)j;                                                         \
            }                                                                    \
        if (t->bias) {                                                           \
            const float *b = t->bias;                                            \
            bs = NN__WIDTH;                                                      \
            NN__C##vecs(NN__T_B, 0) NN__R##rows(NN__T_BIAS, vecs)                \
        }                                                                        \
        if (t->relu) { /* as in act */                                           \
            NN__R##rows(NN__T_RELU, vecs)                                        \
        }                                                                        \
        NN__R##rows(NN__T_STORE, vecs)                                           \
    }
NN__TILES(NN__DEFINE_TILE)

#define NN__NAME_TILE(rows, n) NN__ID(tile_f32_##rows##x##n),
static void (*const NN__ID(tiles)[])(const NN__ID(tile) *) = { NN__TILES(NN__NAME_TILE) };

/* All rows of C at a group of columns; t has the rest. Row strides of C count width floats. A group
   narrower than its vectors (w columns, else 0) goes through a copy. Tiles go on over the ends of
   runs of rows where that does not part a pair. */
NN__KERNEL void NN__ID(rows_f32)(const nn__gemm *g, NN__ID(tile) * t, int vecs, const float *a,
                                 float *c, ptrdiff_t width, int32_t w, ptrdiff_t step) {
    ptrdiff_t ar = g->ar[0], cr = g->cr[0] * width;
    int32_t all = g->rows[0] * g->rows[1] * g->rows[2], most = NN__TILE_ROWS(vecs);
    int32_t first = g->rows[0], run = first % 2 ? first : all, left = run, tiles = 0;
    int32_t i = 0, j = 0, r;
    const float *a1 = a, *a2 = a; /* where this run and this plane of rows begin */
    float *c1 = c, *c2 = c, *to[12];
    NN__ALIGNED float edge[NN__WIDTH > 1 ? 12 * NN__LANES : 1];
    t->ar = g->ar[0];
    while (all) {
        int32_t rows;
        if (!left) left = run;
        if (!tiles) tiles = left > most ? (left + most - 1) / most : 1;
        rows = tiles > 1 && most > 1 ? (left / tiles + 1) & ~1 : nn__min(left, most);
        left -= rows;
        tiles--;
        for (r = 0; r < rows;) {
            int32_t end = nn__min(rows, r + first - i);
            i += end - r;
            NN__ROLLED
            for (; r < end; r++, a += ar, c += cr) {
                t->a[r] = a;
                t->c[r] = c;
            }
            if (i < first) continue;
            i = 0;
            a1 += g->ar[1];
            c1 += g->cr[1] * width;
            if (++j == g->rows[1]) {
                j = 0;
                a1 = a2 += g->ar[2];
                c1 = c2 += g->cr[2] * width;
            }
            a = a1;
            c = c1;
        }
        all -= rows;
        if (rows > 1 && rows % 2) { /* the last two as a pair, so one of them twice: no harm */
            t->a[rows] = t->a[rows - 1];
            t->c[rows] = t->c[rows - 1];
            t->a[rows - 1] = t->a[rows - 2];
            t->c[rows - 1] = t->c[rows - 2];
            rows++;
        }
        NN__ROLLED
        for (r = 0; NN__WIDTH > 1 && w && r < rows; r++) {
            to[r] = t->c[r];
            t->c[r] = edge + r * NN__LANES;
            if (t->add) NN_MEMCPY(t->c[r], to[r], 4 * (size_t)w);
        }
        NN__ID(tiles)[NN__TILE_AT(vecs) + rows / 2](t);
        t->ahead += step;
        NN__ROLLED
        for (r = 0; NN__WIDTH > 1 && w && r < rows; r++) NN_MEMCPY(to[r], t->c[r], 4 * (size_t)w);
    }
}

/* Lanes v, v + 1, ... of w in all, others +0. */
NN__KERNEL_INLINE NN__V NN__ID(part)(const float *p, int32_t v, int32_t w) {
    return v < w ? NN__LOAD(p + v, NN__LEFT(w - v)) : NN__KBITS(0);
}

/* -0 for the lanes from w on, where x is +0: what a factor has to be there, next to a +0, for sums
   to stay as they are. A sum is -0 where a product underflowed, and +0 would make it +0. */
NN__KERNEL_INLINE NN__V NN__ID(minus)(NN__V x, int w) {
    if (w == NN__WIDTH) return x;
    return NN__BITS_OR(x, NN__PICK(~((1u << w) - 1u), NN__KBITS(0x80000000u)));
}

/* Columns [0, w) of B for a block of k as one panel [k][16], padded with zeros. */
NN__TARGET NN__NOINLINE void NN__ID(pack_f32)(float *to, const float *b, const int32_t n[3],
                                              const ptrdiff_t bk[3], ptrdiff_t bj, int32_t w) {
    int32_t k2, k1, k0, j;
    for (k2 = 0; k2 < n[2]; k2++)
        for (k1 = 0; k1 < n[1]; k1++) {
            const float *p = b + k2 * bk[2] + k1 * bk[1];
            for (k0 = 0; bk[0] == 1 && w == NN__LANES && k0 + 4 <= n[0]; k0 += 4, p += 4, to += 64)
                NN__ROLLED
                for (j = 0; j < NN__LANES; j += 4)
                    NN__TRANSPOSE4(to + j, NN__LANES, p + j * bj, bj);
            NN__ROLLED
            for (; k0 < n[0]; k0++, p += bk[0], to += NN__LANES) {
                for (j = 0; bj == 1 && j < NN__LANES; j += NN__WIDTH)
                    NN__STORE(to + j, NN__ID(part)(p, j, w), NN__WIDTH);
                NN__ROLLED
                for (; j < NN__LANES; j++) to[j] = j < w ? p[j * bj] : 0.0f;
            }
        }
}

#if NN__WIDTH > 1
#define NN__BLOCK 65536 /* floats of B that the second-level cache keeps while the rows go by */
#define NN__PACK 4096   /* floats of B that are packed at a time */

/* A group of columns from col on: w of them in a panel of their own, or whole panels. k goes in
   blocks that continue from the partial sums in C. room: where blocks of B are packed; NULL: B is
   used where it lies. */
NN__KERNEL void NN__ID(group_f32)(const nn__gemm *g, int32_t col, int32_t w, int vecs,
                                  float *room) {
    ptrdiff_t wb = g->b_panels ? w : 1, wc = g->c_panels ? w : 1, bk[3];
    int32_t panels = nn__max(1, vecs / NN__VECS), k[3], block[3], limit, l;
    int32_t rows = g->rows[0] * g->rows[1] * g->rows[2];
    const float *b = g->b + col * g->bc + g->b0 * wb;
    float bias[NN__LANES];
    NN__ID(tile) t;
    t.cs = NN__WIDTH == NN__LANES ? NN__LANES * g->cc : NN__WIDTH;
    limit = room ? NN__PACK / NN__LANES / panels : NN__BLOCK / NN__LANES / panels;
    for (l = 0; l < 3; l++) {
        t.ak[l] = g->ak[l];
        bk[l] = t.bk[l] = g->bk[l] * wb;
        block[l] = nn__max(1, g->n[l]);
        if (!room && rows <= 2 * NN__TILE_ROWS(vecs)) continue; /* B is used once or twice */
        block[l] = nn__min(block[l], limit);
        limit = block[l] < g->n[l] ? 1 : limit / block[l];
    }
    t.bs = NN__WIDTH == NN__LANES ? NN__LANES * g->bc : NN__WIDTH;
    for (k[2] = 0; k[2] == 0 || k[2] < g->n[2]; k[2] += block[2])
        for (k[1] = 0; k[1] == 0 || k[1] < g->n[1]; k[1] += block[1])
            for (k[0] = 0; k[0] == 0 || k[0] < g->n[0]; k[0] += block[0]) {
                const float *a = g->a;
                int last = 1;
                t.add = g->add;
                t.b = b;
                for (l = 0; l < 3; l++) {
                    t.n[l] = nn__min(block[l], g->n[l] - k[l]);
                    a += k[l] * g->ak[l];
                    t.b += k[l] * bk[l];
                    t.add |= k[l] != 0;
                    last &= k[l] + block[l] >= g->n[l];
                }
                if (room) {
                    int32_t size = t.n[0] * t.n[1] * t.n[2] * NN__LANES, p;
                    for (p = 0; p < panels; p++)
                        NN__ID(pack_f32)(room + p * size, t.b + p * NN__LANES * g->bc, t.n, bk,
                                         g->bj, w);
                    t.b = room;
                    t.bk[0] = NN__LANES;
                    t.bk[1] = t.bk[0] * t.n[0];
                    t.bk[2] = t.bk[1] * t.n[1];
                    if (NN__WIDTH == NN__LANES) t.bs = size;
                }
                /* the next block of B, or the next columns */
                t.ahead = t.b + (last ? panels * NN__LANES * g->bc : block[0] * bk[0]);
                t.relu = (uint8_t)(last && g->relu);
                t.bias = last && g->bias ? g->bias + col : NULL;
                if (t.bias && w < NN__LANES) {
                    NN_MEMSET(bias, 0, sizeof bias);
                    NN_MEMCPY(bias, t.bias, 4 * (size_t)w);
                    t.bias = bias;
                }
                NN__ID(rows_f32)(g, &t, vecs, a, g->c + col * g->cc + g->c0 * wc, wc,
                                 w < NN__LANES ? w : 0, NN__LANES * g->bc);
            }
}

NN__TARGET NN__NOINLINE void NN__ID(packed_f32)(const nn__gemm *g, int32_t col, int32_t w,
                                                int vecs) {
    NN__ALIGNED float room[NN__PACK];
    NN__ID(group_f32)(g, col, w, vecs, room);
}

NN__KERNEL void NN__ID(gemm_f32)(const nn__gemm *g) {
    int32_t col = 0, panels, most = g->rows[0] * g->rows[1] * g->rows[2] == 1 ? 8 : 4;
    for (; col < g->cols; col += panels * NN__LANES) {
        int32_t left = g->cols - col, w = nn__min(NN__LANES, left);
        panels = NN__WIDTH < NN__LANES || left < 32 ? 1 : left < 64 ? 2 : left < 128 ? 4 : most;
        if (g->bj == 1 && w == NN__LANES) NN__ID(group_f32)(g, col, w, panels * NN__VECS, NULL);
        else NN__ID(packed_f32)(g, col, w, panels * NN__VECS);
    }
}
#else
/* Four columns of a panel at a time, then one. */
NN__KERNEL void NN__ID(gemm_f32)(const nn__gemm *g) {
    int32_t col = 0, vecs, l;
    NN__ID(tile) t;
    t.cs = 1;
    t.bs = g->bj;
    t.ahead = g->b;
    t.add = g->add;
    t.relu = g->relu;
    for (; col < g->cols; col += vecs) {
        int32_t j = col % NN__LANES, panel = col - j, w = nn__min(NN__LANES, g->cols - panel);
        ptrdiff_t wb = g->b_panels ? w : 1, wc = g->c_panels ? w : 1;
        vecs = w - j >= 4 ? 4 : 1;
        for (l = 0; l < 3; l++) {
            t.n[l] = g->n[l];
            t.ak[l] = g->ak[l];
            t.bk[l] = g->bk[l] * wb;
        }
        t.b = g->b + panel * g->bc + g->b0 * wb + j * g->bj;
        t.bias = g->bias ? g->bias + col : NULL;
        NN__ID(rows_f32)(g, &t, vecs, g->a, g->c + panel * g->cc + g->c0 * wc + j, wc, 0, 0);
    }
}
#endif

/* Channel by channel, B [k][cols] for all rows: C[r][j] = sum over k of A[r][k][j] B[k][j]. */
NN__KERNEL void NN__ID(channels_f32)(const nn__gemm *g) {
    int32_t i, j, l, col, k0, k1, k2;
    for (l = 0; l < g->rows[2]; l++)
        for (i = 0; i < g->rows[1]; i++)
            for (j = 0; j < g->rows[0]; j++) {
                const float *a = g->a + l * g->ar[2] + i * g->ar[1] + j * g->ar[0];
                float *c = g->c + l * g->cr[2] + i * g->cr[1] + j * g->cr[0];
                for (col = 0; col < g->cols; col += NN__WIDTH) {
                    int w = NN__LEFT(g->cols - col);
                    NN__V s = NN__KBITS(0);
                    if (g->add) s = NN__LOAD(c + col, w);
                    for (k2 = 0; k2 < g->n[2]; k2++)
                        for (k1 = 0; k1 < g->n[1]; k1++) {
                            const float *x = a + col + k2 * g->ak[2] + k1 * g->ak[1];
                            const float *b = g->b + g->b0 + col + k2 * g->bk[2] + k1 * g->bk[1];
                            NN__ROLLED
                            for (k0 = 0; k0 < g->n[0]; k0++, x += g->ak[0], b += g->bk[0])
                                s = NN__FMA(NN__LOAD(x, w), NN__LOAD(b, w), s);
                        }
                    if (g->bias) s = NN__ADD(s, NN__LOAD(g->bias + col, w));
                    NN__STORE(c + col, s, w);
                }
            }
}

#if NN__WIDTH == 1
NN__KERNEL void NN__ID(lanes_f32)(const nn__gemm *g) {
    int32_t r, j, k, l;
    for (r = 0; r < g->rows[0]; r++)
        for (j = 0; j < g->cols; j++) {
            float lane[NN__LANES], sum;
            const float *a = g->a + r * g->ar[0];
            for (l = 0; l < NN__LANES; l++) lane[l] = 0.0f;
            for (k = 0; k < g->n[0]; k += NN__LANES) {
                int32_t w = nn__min(NN__LANES, g->n[0] - k);
                ptrdiff_t bk = g->b_panels ? 1 : g->bk[0];
                const float *b = g->b_panels ? g->b + k / NN__LANES * g->bk[1] + j * g->bj * w
                                             : g->b + k * bk + j * g->bj;
                for (l = 0; l < w; l++) lane[l] = NN__FMA(a[k + l], b[l * bk], lane[l]);
            }
            sum = NN__SUM16(lane);
            if (g->bias) sum = NN__ADD(sum, g->bias[j]);
            g->c[r * g->cr[0] + j] = sum;
        }
}
#else
/* w of 16 lanes of column j, from v on: the last ones, or all where k is not side by side. Others
   are -0, see minus. */
NN__TARGET NN__NOINLINE NN__V NN__ID(lane_part)(const nn__gemm *g, const float *b, int32_t k,
                                                int32_t j, int32_t v, int32_t w) {
    float some[NN__LANES];
    int32_t l;
    if (v >= w) return NN__KBITS(0x80000000u);
    if (g->b_panels) {
        b += j * g->bj * w;
    } else if (g->bk[0] == 1) {
        b += j * g->bj;
    } else {
        NN__ROLLED
        for (l = 0; l < w; l++) some[l] = g->b[(k + l) * g->bk[0] + j * g->bj];
        b = some;
    }
    return NN__ID(minus)(NN__LOAD(b + v, NN__LEFT(w - v)), NN__LEFT(w - v));
}

/* Sums in 16 lanes for a tile of rows and columns; vector v is v % NN__VECS of its column. */
#define NN__L_COL(v) (j + v / NN__VECS)
#define NN__L_AT(v) (v % NN__VECS * NN__WIDTH)
#define NN__L_ROW(r, n) const float *a##r = a + r * g->ar[0];
#define NN__L_B(r, v) NN__V b##v = NN__LOAD(b + NN__L_COL(v) * bj + NN__L_AT(v), NN__WIDTH);
#define NN__L_FMA1(r, v) \
    s##r##_##v = NN__FMA(NN__LOAD(a##r + k + NN__L_AT(v), NN__WIDTH), b##v, s##r##_##v);
#define NN__L_FMA(r, n) NN__C##n(NN__L_FMA1, r)
#define NN__L_B_PART(r, v) NN__V b##v = NN__ID(lane_part)(g, b, k, NN__L_COL(v), NN__L_AT(v), w);
#define NN__L_PART1(r, v) \
    s##r##_##v = NN__FMA(NN__ID(part)(a##r + k, NN__L_AT(v), w), b##v, s##r##_##v);
#define NN__L_PART(r, n) NN__C##n(NN__L_PART1, r)
#define NN__L_LIST(r, v) s##r##_##v,
#define NN__L_STORE(r, n)                            \
    {                                                \
        NN__V s[] = { NN__C##n(NN__L_LIST, r) };     \
        NN__ROLLED                                   \
        for (w = 0; w < n / NN__VECS; w++) {         \
            float sum = NN__SUM16(s + w * NN__VECS); \
            if (g->bias) sum = sum + g->bias[j + w]; \
            c[r * g->cr[0] + w] = sum;               \
        }                                            \
    }
#define NN__DEFINE_LANES_(rows, vecs)                                                              \
    NN__KERNEL void NN__ID(lanes_f32_##rows##x##vecs)(const nn__gemm *g, const float *a, float *c, \
                                                      int32_t j) {                                 \
        ptrdiff_t bj = g->b_panels ? g->bj * NN__LANES : g->bj;                                    \
        ptrdiff_t step = g->b_panels ? g->bk[1] : NN__LANES;                                       \
        const float *b = g->b;                                                                     \
        int32_t k = 0, w;                                                                          \
        NN__R##rows(NN__L_ROW, vecs)                                                               \
            NN__R##rows(NN__T_ZERO, vecs) if (g->b_panels || g->bk[0] == 1) {                      \
            NN__ROLLED                                                                             \
            for (; k + NN__LANES <= g->n[0]; k += NN__LANES, b += step) {                          \
                NN__C##vecs(NN__L_B, 0) NN__R##rows(NN__L_FMA, vecs)                               \
            }                                                                                      \
        }                                                                                          \
        for (; k < g->n[0]; k += NN__LANES) {                                                      \
            w = nn__min(NN__LANES, g->n[0] - k);                                                   \
            NN__C##vecs(NN__L_B_PART, 0) NN__R##rows(NN__L_PART, vecs)                             \
        }                                                                                          \
        NN__R##rows(NN__L_STORE, vecs)                                                             \
    }
#define NN__DEFINE_LANES(rows, vecs) NN__DEFINE_LANES_(rows, vecs)

NN__LANE_TILES(NN__DEFINE_LANES)

#define NN__NAME_LANES_(rows, vecs) { NN__ID(lanes_f32_##rows##x##vecs), rows, vecs / NN__VECS },
#define NN__NAME_LANES(rows, vecs) NN__NAME_LANES_(rows, vecs)
static const struct NN__ID(lane_tile) {
    void (*run)(const nn__gemm *g, const float *a, float *c, int32_t j);
    int32_t rows, cols;
} NN__ID(lane_tiles)[] = { NN__LANE_TILES(NN__NAME_LANES) };

/* The first tile that fits in what is left; the last one is 1 x 1. */
NN__KERNEL void NN__ID(lanes_f32)(const nn__gemm *g) {
    int32_t r, j, cols;
    for (j = 0; j < g->cols; j += cols) {
        const struct NN__ID(lane_tile) *t = NN__ID(lane_tiles);
        while (t->cols > g->cols - j || t->rows > g->rows[0]) t++;
        cols = t->cols;
        for (r = 0; r < g->rows[0]; r += t->rows) {
            int32_t i = j;
            if (t->rows > g->rows[0] - r)
                t = &NN__ID(lane_tiles)[sizeof NN__ID(lane_tiles) / sizeof *t - 1];
            for (; i < j + cols; i += t->cols)
                t->run(g, g->a + r * g->ar[0], g->c + r * g->cr[0] + i, i);
        }
    }
}
#endif

/* >>elementwise ---------------------------------------------------------------------------------
   Activations, normalization, pooling, losses. Sums along a vector: element i goes to lane i % 16.
 */

NN__KERNEL_INLINE float NN__ID(max_f32)(const float *x, int32_t n) {
    float m = x[0];
    int32_t i;
    for (i = 1; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* y = exp(x - m), and the sum of that. */
NN__KERNEL float NN__ID(exp_sum_f32)(float *y, const float *x, int32_t n, float m) {
    NN__V lane[NN__VECS];
    int32_t i;
    int l;
    for (l = 0; l < NN__VECS; l++) lane[l] = NN__KBITS(0);
    for (i = 0; i < n;)
        for (l = 0; l < NN__VECS && i < n; l++, i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__V e = NN__ID(exp)(NN__SUB(NN__LOAD(x + i, w), NN__SPREAD(m)));
            if (y) NN__STORE(y + i, e, w);
            lane[l] = NN__ADD(lane[l], NN__FIRST(e, w));
        }
    return NN__SUM16(lane);
}

NN__KERNEL void NN__ID(softmax_f32)(float *y, int32_t n) {
    float sum = NN__ID(exp_sum_f32)(y, y, n, NN__ID(max_f32)(y, n));
    int32_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__STORE(y + i, NN__DIV(NN__LOAD(y + i, w), NN__SPREAD(sum)), w);
    }
}

NN__KERNEL void NN__ID(act_f32)(float *y, size_t n, int32_t width, int act, float slope) {
    size_t i;
    switch (act) {
    case NN_RELU: /* keeps NaN and -0 */
        for (i = 0; i < n; i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__V x = NN__LOAD(y + i, w);
            NN__STORE(y + i, NN__RELU(x), w);
        }
        break;
    case NN_LEAKY_RELU:
        for (i = 0; i < n; i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__V x = NN__LOAD(y + i, w), z = NN__MUL(x, NN__SPREAD(slope));
            NN__STORE(y + i, NN__SEL_GT(x, NN__KBITS(0), x, z), w);
        }
        break;
    case NN_SIGMOID:
        for (i = 0; i < n; i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__STORE(y + i, NN__ID(sigmoid)(NN__LOAD(y + i, w)), w);
        }
        break;
    case NN_TANH:
        for (i = 0; i < n; i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__STORE(y + i, NN__ID(tanh)(NN__LOAD(y + i, w)), w);
        }
        break;
    default:
        for (i = 0; i < n; i += (size_t)width) NN__ID(softmax_f32)(y + i, width);
        break;
    }
}

/* dx = y (dy - sum dy y) */
NN__KERNEL void NN__ID(softmax_grad_f32)(float *dy, const float *y, int32_t n) {
    NN__V lane[NN__VECS];
    float sum;
    int32_t i;
    int l;
    for (l = 0; l < NN__VECS; l++) lane[l] = NN__KBITS(0);
    for (i = 0; i < n;)
        for (l = 0; l < NN__VECS && i < n; l++, i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            lane[l] = NN__FMA(NN__LOAD(dy + i, w), NN__ID(minus)(NN__LOAD(y + i, w), w), lane[l]);
        }
    sum = NN__SUM16(lane);
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__V d = NN__SUB(NN__LOAD(dy + i, w), NN__SPREAD(sum));
        NN__STORE(dy + i, NN__MUL(d, NN__LOAD(y + i, w)), w);
    }
}

NN__TARGET NN__NOINLINE void NN__ID(relu_grad_f32)(float *dy, const float *y, size_t n) {
    size_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__V d = NN__LOAD(dy + i, w);
        NN__STORE(dy + i, NN__SEL_GT(NN__LOAD(y + i, w), NN__KBITS(0), d, NN__KBITS(0)), w);
    }
}

NN__KERNEL void NN__ID(act_grad_f32)(float *dy, const float *y, size_t n, int32_t width, int act,
                                     float slope) {
    size_t i;
    if (act == NN_SOFTMAX) {
        for (i = 0; i < n; i += (size_t)width) NN__ID(softmax_grad_f32)(dy + i, y + i, width);
        return;
    }
    if (act == NN_RELU) {
        NN__ID(relu_grad_f32)(dy, y, n);
        return;
    }
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__V v = NN__LOAD(y + i, w), d = NN__LOAD(dy + i, w), z;
        switch (act) {
        case NN_LEAKY_RELU:
            z = NN__MUL(d, NN__SPREAD(slope));
            d = NN__SEL_GT(v, NN__KBITS(0), d, z);
            break;
        case NN_SIGMOID: /* y (1 - y) */
            z = NN__SUB(NN__K(1.0f), v);
            z = NN__MUL(z, v);
            d = NN__MUL(z, d);
            break;
        default: /* tanh: 1 - y^2 */
            z = NN__SUB(NN__KBITS(0), v);
            z = NN__FMA(z, v, NN__K(1.0f));
            d = NN__MUL(z, d);
        }
        NN__STORE(dy + i, d, w);
    }
}

/* Elements i of a table that repeats every c <= 4 of them lie in order from i % c on. */
NN__KERNEL void NN__ID(affine_f32)(float *y, const void *x, int type, size_t n, int32_t c,
                                   float scale, const float *mean, const float *std) {
    float minus[4 + NN__WIDTH], by[4 + NN__WIDTH];
    int32_t j, at = 0, step, divides = 0;
    size_t i;
    if (c > 4) c = 1;
    step = NN__WIDTH % c;
    for (j = 0; j < c + NN__WIDTH; j++) {
        minus[j] = 0.0f - mean[j % c];
        by[j] = std[j % c] > 0 ? std[j % c] : 1.0f;
        divides |= std[j % c] > 0;
    }
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__V v = type == NN_U8 ? NN__BYTES((const unsigned char *)x + i, w)
                                : NN__LOAD((const float *)x + i, w);
        v = NN__FMA(v, NN__SPREAD(scale), NN__LOAD(minus + at, NN__WIDTH));
        if (divides) v = NN__DIV(v, NN__LOAD(by + at, NN__WIDTH));
        NN__STORE(y + i, v, w);
        at += step;
        if (at >= c) at -= c;
    }
}

NN__KERNEL void NN__ID(add_f32)(float *y, const float *a, const float *b, size_t n) {
    size_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__STORE(y + i, NN__ADD(NN__LOAD(a + i, w), NN__LOAD(b + i, w)), w);
    }
}

NN__KERNEL void NN__ID(divide_f32)(float *y, const float *x, float by, size_t n) {
    size_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__STORE(y + i, NN__DIV(NN__LOAD(x + i, w), NN__SPREAD(by)), w);
    }
}

/* Four vectors of columns at a time, since each is one chain of additions. */
NN__KERNEL void NN__ID(add_rows_f32)(float *s, const float *x, size_t rows, int32_t cols,
                                     ptrdiff_t stride) {
    int32_t j = 0;
    size_t r;
    for (; NN__WIDTH > 1 && j + 4 * NN__WIDTH <= cols; j += 4 * NN__WIDTH) {
        const float *p = x + j;
        NN__V a = NN__LOAD(s + j, NN__WIDTH), b = NN__LOAD(s + j + NN__WIDTH, NN__WIDTH);
        NN__V c = NN__LOAD(s + j + 2 * NN__WIDTH, NN__WIDTH);
        NN__V d = NN__LOAD(s + j + 3 * NN__WIDTH, NN__WIDTH);
        for (r = 0; r < rows; r++, p += stride) {
            a = NN__ADD(a, NN__LOAD(p, NN__WIDTH));
            b = NN__ADD(b, NN__LOAD(p + NN__WIDTH, NN__WIDTH));
            c = NN__ADD(c, NN__LOAD(p + 2 * NN__WIDTH, NN__WIDTH));
            d = NN__ADD(d, NN__LOAD(p + 3 * NN__WIDTH, NN__WIDTH));
        }
        NN__STORE(s + j, a, NN__WIDTH);
        NN__STORE(s + j + NN__WIDTH, b, NN__WIDTH);
        NN__STORE(s + j + 2 * NN__WIDTH, c, NN__WIDTH);
        NN__STORE(s + j + 3 * NN__WIDTH, d, NN__WIDTH);
    }
    for (; j < cols; j += NN__WIDTH) {
        const float *p = x + j;
        int w = NN__LEFT(cols - j);
        NN__V a = NN__LOAD(s + j, w);
        for (r = 0; r < rows; r++, p += stride) a = NN__ADD(a, NN__LOAD(p, w));
        NN__STORE(s + j, a, w);
    }
}

/* The even bits of x, side by side, and back. */
NN__KERNEL_INLINE uint32_t NN__ID(gather_bits)(uint32_t x) {
    x &= 0x55555555u;
    x = (x | x >> 1) & 0x33333333u;
    x = (x | x >> 2) & 0x0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ffu;
    return (x | x >> 8) & 0xffffu;
}

NN__KERNEL_INLINE uint32_t NN__ID(spread_bits)(uint32_t x) {
    x = (x | x << 8) & 0x00ff00ffu;
    x = (x | x << 4) & 0x0f0f0f0fu;
    x = (x | x << 2) & 0x33333333u;
    return (x | x << 1) & 0x55555555u;
}

/* One window: the first maximum in row order, and its number if winner is not NULL. A NaN beats
   everything before it; most windows have none, which the sum of their elements tells. */
NN__KERNEL NN__V NN__ID(window)(const nn__pool *p, const float *x, int w, NN__V *winner) {
    NN__V best, k, all, v;
    int32_t a, b, nans;
    for (nans = 0;; nans = 1) {
        all = best = NN__LOAD(x, w);
        if (winner) *winner = NN__SPREAD((float)p->first);
        for (a = 0; a < p->h; a++)
            for (b = 0; b < p->w; b++) {
                if (a + b == 0 && !nans) continue;
                v = NN__LOAD(x + a * p->row + b * p->column, w);
                if (winner) {
                    k = NN__SPREAD((float)(p->first + a * p->kw + b));
                    *winner = NN__SEL_GT(v, best, k, *winner);
                    if (nans) *winner = NN__SEL_NAN(v, k, *winner);
                }
                best = NN__SEL_GT(v, best, v, best);
                if (nans) best = NN__SEL_NAN(v, v, best);
                all = NN__ADD(all, v);
            }
        if (nans || !NN__NAN_LANES(all)) return best;
    }
}

/* The common window of 2 x 2, unrolled, without NaNs. */
NN__KERNEL_INLINE NN__V NN__ID(any_window)(const nn__pool *p, const float *x, int w,
                                           NN__V *winner) {
    if (NN__WIDTH > 1 && p->bits == 2 && p->h == 2 && p->w == 2) {
        NN__V a = NN__LOAD(x, w), b = NN__LOAD(x + p->column, w), c = NN__LOAD(x + p->row, w);
        NN__V d = NN__LOAD(x + p->row + p->column, w), best = a;
        NN__V all = NN__ADD(NN__ADD(a, b), NN__ADD(c, d));
        if (winner) *winner = NN__SEL_GT(b, best, NN__K(1.0f), NN__KBITS(0));
        best = NN__SEL_GT(b, best, b, best);
        if (winner) *winner = NN__SEL_GT(c, best, NN__K(2.0f), *winner);
        best = NN__SEL_GT(c, best, c, best);
        if (winner) *winner = NN__SEL_GT(d, best, NN__K(3.0f), *winner);
        best = NN__SEL_GT(d, best, d, best);
        if (!NN__NAN_LANES(all)) return best;
    }
    return NN__ID(window)(p, x, w, winner);
}

NN__KERNEL void NN__ID(maxpool_f32)(const nn__pool *p) {
    int32_t i, j, l;
    for (i = 0; i < p->windows; i++) {
        const float *x = p->x + i * p->step;
        float *y = p->y + i * p->y_step;
        if (!p->keep) {
            for (j = 0; j < p->channels; j += NN__WIDTH) {
                int w = NN__LEFT(p->channels - j);
                NN__STORE(y + j, NN__ID(any_window)(p, x + j, w, NULL), w);
            }
            continue;
        }
        for (j = 0; j < p->channels; j += NN__LANES) {
            int32_t width = nn__min(NN__LANES, p->channels - j);
            float winners[NN__LANES];
            uint32_t odd = 0, high = 0; /* winners 1 and 3; 2 and 3 */
            size_t at = p->index + (size_t)(i * p->y_step + j);
            for (l = 0; l < width; l += NN__WIDTH) {
                int w = NN__LEFT(width - l);
                NN__V winner;
                NN__STORE(y + j + l, NN__ID(any_window)(p, x + j + l, w, &winner), w);
                if (NN__WIDTH > 1 && p->bits == 2) {
                    uint32_t one = NN__GT_BITS(winner, NN__K(0.5f)),
                             two = NN__GT_BITS(winner, NN__K(1.5f));
                    high |= two << l;
                    odd |= (one ^ two ^ NN__GT_BITS(winner, NN__K(2.5f))) << l;
                } else {
                    NN__STORE(winners + l, winner, w);
                }
            }
            if (NN__WIDTH > 1 && p->bits == 2) {
                uint32_t codes = NN__ID(spread_bits)(odd) | NN__ID(spread_bits)(high) << 1;
                if (at % 4 == 0 && width == NN__LANES) {
                    nn__put32(p->keep + at / 4, codes);
                    continue;
                }
                for (l = 0; l < width; l++) winners[l] = (float)(codes >> 2 * l & 3);
            }
            for (l = 0; l < width; l++)
                nn__put_index(p->keep, p->bits, at + (size_t)l, (uint32_t)winners[l]);
        }
    }
}

#ifndef NN_NO_TRAIN
/* Windows that do not overlap: all their elements are written, others not touched. */
NN__KERNEL void NN__ID(unpool_f32)(const nn__pool *p) {
    int four = NN__WIDTH > 1 && p->h * p->w == 4;
    ptrdiff_t place[4];
    int32_t i, j, l, k;
    for (k = 0; four && k < 4; k++) place[k] = k / p->w * p->row + k % p->w * p->column;
    for (i = 0; i < p->windows; i++)
        for (j = 0; j < p->channels; j += NN__LANES) {
            int32_t width = nn__min(NN__LANES, p->channels - j);
            size_t at = p->index + (size_t)(i * p->y_step + j);
            const float *y = p->y + i * p->y_step + j;
            float *x = p->dx + i * p->step + j;
            if (four && at % 4 == 0 && width == NN__LANES) {
                uint32_t codes = nn__get32(p->keep + at / 4), hit[4];
                uint32_t odd = NN__ID(gather_bits)(codes), high = NN__ID(gather_bits)(codes >> 1);
                hit[0] = ~odd & ~high, hit[1] = odd & ~high, hit[2] = ~odd & high;
                hit[3] = odd & high;
                for (l = 0; l < width; l += NN__WIDTH) {
                    NN__V v = NN__LOAD(y + l, NN__WIDTH);
                    for (k = 0; k < 4; k++)
                        NN__STORE(x + place[k] + l, NN__PICK(hit[k] >> l, v), NN__WIDTH);
                }
                continue;
            }
            for (l = 0; l < width; l++) {
                int32_t winner = (int32_t)nn__get_index(p->keep, p->bits, at + (size_t)l);
                for (k = 0; k < p->h * p->w; k++)
                    x[k / p->w * p->row + k % p->w * p->column + l] = k == winner ? y[l] : 0.0f;
            }
        }
}
#endif

NN__KERNEL void NN__ID(normalize_f32)(float *y, const float *x, size_t n, int32_t c,
                                      const float *mean, const float *inv, const float *weight,
                                      const float *bias) {
    size_t i;
    int32_t j;
    for (i = 0; i < n; i += (size_t)c, x += c, y += c)
        for (j = 0; j < c; j += NN__WIDTH) {
            int w = NN__LEFT(c - j);
            NN__V v = NN__SUB(NN__LOAD(x + j, w), NN__LOAD(mean + j, w));
            v = NN__MUL(v, NN__LOAD(inv + j, w));
            NN__STORE(y + j, NN__FMA(v, NN__LOAD(weight + j, w), NN__LOAD(bias + j, w)), w);
        }
}

NN__KERNEL void NN__ID(inverse_root_f32)(float *out, const float *var, size_t n, float eps) {
    size_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__V v = NN__ADD(NN__LOAD(var + i, w), NN__SPREAD(eps));
        v = NN__ROOT(v);
        NN__STORE(out + i, NN__DIV(NN__K(1.0f), v), w);
    }
}

#ifndef NN_NO_TRAIN
NN__KERNEL void NN__ID(moments_f32)(float *mean, float *var, const float *x, size_t n, int32_t c) {
    float count = (float)(n / (size_t)c);
    size_t i;
    int32_t j;
    for (j = 0; j < c; j += NN__WIDTH) {
        int w = NN__LEFT(c - j);
        NN__V m = NN__KBITS(0), v = NN__KBITS(0);
        for (i = 0; i < n; i += (size_t)c) m = NN__ADD(m, NN__LOAD(x + i + j, w));
        m = NN__DIV(m, NN__SPREAD(count));
        for (i = 0; i < n; i += (size_t)c) {
            NN__V d = NN__SUB(NN__LOAD(x + i + j, w), m);
            v = NN__FMA(d, d, v);
        }
        NN__STORE(mean + j, m, w);
        NN__STORE(var + j, NN__DIV(v, NN__SPREAD(count)), w);
    }
}

/* Batch statistics: dx = weight inv (dy - mean(dy) - xhat mean(dy xhat)), sums over the batch in
   s[0..c), s[c..2c). Running ones (s NULL): dx = weight inv dy. dx may be dy. */
NN__KERNEL void NN__ID(normalize_grad_f32)(float *dx, float *s, const float *dy, const float *x,
                                           size_t n, int32_t c, const float *mean, const float *inv,
                                           const float *weight) {
    float count = (float)(n / (size_t)c);
    size_t i;
    int32_t j;
    for (j = 0; j < c; j += NN__WIDTH) {
        int w = NN__LEFT(c - j);
        NN__V iv = NN__LOAD(inv + j, w), scale = NN__MUL(NN__LOAD(weight + j, w), iv);
        NN__V mu = NN__KBITS(0), s0 = NN__KBITS(0), s1 = NN__KBITS(0), d, v;
        if (s) {
            mu = NN__LOAD(mean + j, w);
            for (i = 0; i < n; i += (size_t)c) {
                d = NN__LOAD(dy + i + j, w);
                v = NN__SUB(NN__LOAD(x + i + j, w), mu);
                v = NN__MUL(v, iv);
                s0 = NN__ADD(s0, d);
                s1 = NN__FMA(d, v, s1);
            }
            NN__STORE(s + j, s0, w);
            NN__STORE(s + c + j, s1, w);
            s0 = NN__DIV(s0, NN__SPREAD(count));
            s1 = NN__DIV(s1, NN__SPREAD(count));
        }
        for (i = 0; dx && i < n; i += (size_t)c) {
            d = NN__LOAD(dy + i + j, w);
            if (s) {
                v = NN__SUB(NN__LOAD(x + i + j, w), mu);
                v = NN__MUL(v, iv);
                v = NN__SUB(NN__KBITS(0), v);
                d = NN__SUB(d, s0);
                d = NN__FMA(v, s1, d);
            }
            NN__STORE(dx + i + j, NN__MUL(d, scale), w);
        }
    }
}

NN__KERNEL void NN__ID(running_f32)(float *running, const float *batch, int32_t c, float momentum,
                                    float factor) {
    int32_t j;
    for (j = 0; j < c; j += NN__WIDTH) {
        int w = NN__LEFT(c - j);
        NN__V r = NN__LOAD(running + j, w), d = NN__SUB(NN__KBITS(0), r);
        d = NN__FMA(NN__LOAD(batch + j, w), NN__SPREAD(factor), d);
        NN__STORE(running + j, NN__FMA(NN__SPREAD(momentum), d, r), w);
    }
}
#endif

NN__KERNEL float NN__ID(mse_f32)(float *grad, const float *y, const float *t, int32_t n,
                                 float scale) {
    float twice = scale + scale;
    NN__V lane[NN__VECS];
    int32_t i;
    int l;
    if (n == 1) { /* the other lanes would add nothing */
        float d = *y - *t;
        if (grad) *grad = d * twice;
        return d * d;
    }
    for (l = 0; l < NN__VECS; l++) lane[l] = NN__KBITS(0);
    for (i = 0; i < n;)
        for (l = 0; l < NN__VECS && i < n; l++, i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__V d = NN__SUB(NN__LOAD(y + i, w), NN__LOAD(t + i, w));
            lane[l] = NN__FMA(d, d, lane[l]);
            if (grad) NN__STORE(grad + i, NN__MUL(d, NN__SPREAD(twice)), w);
        }
    return NN__SUM16(lane);
}

/* log(1 + e), e >= 0, accurate for small e: log(u) e / (u - 1) with u = 1 + e (Kahan) */
NN__KERNEL_INLINE NN__V NN__ID(log1p)(NN__V e) {
    NN__V u = NN__ADD(NN__K(1.0f), e), d = NN__SUB(u, NN__K(1.0f)), l = NN__ID(log)(u);
    l = NN__MUL(l, e);
    l = NN__DIV(l, NN__SEL_GT(d, NN__KBITS(0), d, NN__K(1.0f)));
    return NN__SEL_GT(d, NN__KBITS(0), l, e);
}

/* max(z, 0) - z t + log(1 + exp(-|z|)) */
NN__KERNEL float NN__ID(bce_f32)(float *grad, const float *z, const float *t, int32_t n,
                                 float scale) {
    NN__V lane[NN__VECS];
    int32_t i;
    int l;
    for (l = 0; l < NN__VECS; l++) lane[l] = NN__KBITS(0);
    for (i = 0; i < n;)
        for (l = 0; l < NN__VECS && i < n; l++, i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__V x = NN__LOAD(z + i, w), want = NN__LOAD(t + i, w), v;
            NN__V top = NN__SEL_GT(NN__KBITS(0), x, NN__KBITS(0), x);
            v = NN__SUB(NN__KBITS(0), x);
            v = NN__FMA(v, want, top);
            v = NN__ADD(v, NN__ID(log1p)(NN__ID(exp)(NN__COPYSIGN(x, NN__K(-1.0f)))));
            lane[l] = NN__ADD(lane[l], NN__FIRST(v, w));
            if (!grad) continue;
            v = NN__SUB(NN__ID(sigmoid)(x), want);
            NN__STORE(grad + i, NN__MUL(v, NN__SPREAD(scale)), w);
        }
    return NN__SUM16(lane);
}

/* log(sum exp(z - max)) - (z[label] - max); gradient (softmax - onehot) scale */
NN__KERNEL float NN__ID(cross_entropy_f32)(float *grad, const float *z, int32_t label, int32_t n,
                                           float scale) {
    float m = NN__ID(max_f32)(z, n), own = z[label] - m, sum, p;
    float one[NN__WIDTH];
    int32_t i;
    sum = NN__ID(exp_sum_f32)(grad, z, n, m);
    if (grad) {
        p = grad[label] / sum;
        p = p - 1.0f;
        p = p * scale;
        for (i = 0; i < n; i += NN__WIDTH) {
            int w = NN__LEFT(n - i);
            NN__V v = NN__DIV(NN__LOAD(grad + i, w), NN__SPREAD(sum));
            NN__STORE(grad + i, NN__MUL(v, NN__SPREAD(scale)), w);
        }
        grad[label] = p;
    }
    NN__STORE(one, NN__ID(log)(NN__SPREAD(sum)), NN__WIDTH);
    return one[0] - own;
}

/* x - x is 0 unless it is a NaN. */
NN__KERNEL int NN__ID(finite_f32)(const float *x, size_t n) {
    NN__V all = NN__KBITS(0);
    size_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        NN__V v = NN__LOAD(x + i, NN__LEFT(n - i));
        v = NN__SUB(v, v);
        all = NN__ADD(all, v);
    }
    return !NN__NAN_LANES(all);
}

NN__KERNEL float NN__ID(sum_f32)(const float *x, size_t n) {
    NN__V lane[NN__VECS];
    size_t i;
    int l;
    for (l = 0; l < NN__VECS; l++) lane[l] = NN__KBITS(0);
    for (i = 0; i < n;)
        for (l = 0; l < NN__VECS && i < n; l++, i += NN__WIDTH)
            lane[l] = NN__ADD(lane[l], NN__LOAD(x + i, NN__LEFT(n - i)));
    return NN__SUM16(lane);
}

/* >>cells ---------------------------------------------------------------------------------------
   Recurrent cells, one step of one sample; what the products left stands in z and q. */

/* Hochreiter and Schmidhuber, 1997, with a forget gate: c = s(f) c0 + s(i) tanh(g), h = s(o)
   tanh(c). Two loops: in one, tanh(c) would wait for all that is before it. */
NN__KERNEL void NN__ID(lstm_f32)(float *z, float *h, float *c, const float *c0, int32_t n) {
    int32_t j;
    for (j = 0; j < n; j += NN__WIDTH) {
        int w = NN__LEFT(n - j);
        NN__V i = NN__ID(sigmoid)(NN__LOAD(z + j, w)), f = NN__ID(sigmoid)(NN__LOAD(z + n + j, w));
        NN__V g = NN__ID(tanh)(NN__LOAD(z + 2 * n + j, w));
        NN__V o = NN__ID(sigmoid)(NN__LOAD(z + 3 * n + j, w)), x = NN__MUL(i, g);
        x = NN__FMA(f, NN__LOAD(c0 + j, w), x);
        NN__STORE(z + j, i, w);
        NN__STORE(z + n + j, f, w);
        NN__STORE(z + 2 * n + j, g, w);
        NN__STORE(z + 3 * n + j, o, w);
        NN__STORE(c + j, x, w);
    }
    for (j = 0; j < n; j += NN__WIDTH) {
        int w = NN__LEFT(n - j);
        NN__V x = NN__ID(tanh)(NN__LOAD(c + j, w));
        NN__STORE(h + j, NN__MUL(NN__LOAD(z + 3 * n + j, w), x), w);
    }
}

/* Cho et al., 2014: r = s(zr + qr), z = s(zz + qz); rh = r h0, NULL: not wanted. */
NN__KERNEL void NN__ID(gru_gates_f32)(float *z, const float *q, float *rh, const float *h0,
                                      int32_t n) {
    int32_t j;
    for (j = 0; j < n; j += NN__WIDTH) {
        int w = NN__LEFT(n - j);
        NN__V r = NN__ADD(NN__LOAD(z + j, w), NN__LOAD(q + j, w));
        NN__V u = NN__ADD(NN__LOAD(z + n + j, w), NN__LOAD(q + n + j, w));
        r = NN__ID(sigmoid)(r);
        NN__STORE(z + j, r, w);
        NN__STORE(z + n + j, NN__ID(sigmoid)(u), w);
        if (rh) NN__STORE(rh + j, NN__MUL(r, NN__LOAD(h0 + j, w)), w);
    }
}

/* n = tanh(zn + r qn), or without r where the reset came before; h = n + z (h0 - n) */
NN__KERNEL void NN__ID(gru_f32)(float *z, const float *q, float *h, const float *h0, int32_t n,
                                int reset) {
    int32_t j;
    for (j = 0; j < n; j += NN__WIDTH) {
        int w = NN__LEFT(n - j);
        NN__V r = reset ? NN__LOAD(z + j, w) : NN__K(1.0f), x;
        x = NN__FMA(r, NN__LOAD(q + 2 * n + j, w), NN__LOAD(z + 2 * n + j, w));
        x = NN__ID(tanh)(x);
        NN__STORE(z + 2 * n + j, x, w);
        r = NN__SUB(NN__LOAD(h0 + j, w), x);
        NN__STORE(h + j, NN__FMA(NN__LOAD(z + n + j, w), r, x), w);
    }
}

#ifndef NN_NO_TRAIN
/* d * y * (1 - y) and d * (1 - y^2) */
NN__KERNEL_INLINE NN__V NN__ID(sigmoid_grad)(NN__V d, NN__V y) {
    NN__V x = NN__SUB(NN__K(1.0f), y);
    x = NN__MUL(x, y);
    return NN__MUL(d, x);
}
NN__KERNEL_INLINE NN__V NN__ID(tanh_grad)(NN__V d, NN__V y) {
    NN__V x = NN__SUB(NN__KBITS(0), y);
    x = NN__FMA(x, y, NN__K(1.0f));
    return NN__MUL(d, x);
}

NN__KERNEL void NN__ID(lstm_grad_f32)(float *z, float *dh, float *dc, const float *c,
                                      const float *c0, int32_t n) {
    int32_t j;
    for (j = 0; j < n; j += NN__WIDTH) {
        int w = NN__LEFT(n - j);
        NN__V i = NN__LOAD(z + j, w), f = NN__LOAD(z + n + j, w), g = NN__LOAD(z + 2 * n + j, w);
        NN__V o = NN__LOAD(z + 3 * n + j, w), d = NN__LOAD(dh + j, w);
        NN__V t = NN__ID(tanh)(NN__LOAD(c + j, w)), x;
        NN__STORE(z + 3 * n + j, NN__ID(sigmoid_grad)(NN__MUL(d, t), o), w);
        d = NN__MUL(d, o);
        x = NN__SUB(NN__KBITS(0), t);
        x = NN__FMA(x, t, NN__K(1.0f));
        d = NN__FMA(d, x, NN__LOAD(dc + j, w));
        x = NN__MUL(d, g);
        NN__STORE(z + j, NN__ID(sigmoid_grad)(x, i), w);
        x = NN__MUL(d, NN__LOAD(c0 + j, w));
        NN__STORE(z + n + j, NN__ID(sigmoid_grad)(x, f), w);
        x = NN__MUL(d, i);
        NN__STORE(z + 2 * n + j, NN__ID(tanh_grad)(x, g), w);
        NN__STORE(dc + j, NN__MUL(d, f), w);
        NN__STORE(dh + j, NN__KBITS(0), w);
    }
}

/* reset: q becomes the gradients of what it held. Else: z's r stays, and q gets 0, 0 and that of n,
   whose product by the weight gru_reset_grad then takes as drh. */
NN__KERNEL void NN__ID(gru_grad_f32)(float *z, float *q, float *dh, const float *h0, int32_t n,
                                     int reset) {
    int32_t j;
    for (j = 0; j < n; j += NN__WIDTH) {
        int w = NN__LEFT(n - j);
        NN__V r = NN__LOAD(z + j, w), u = NN__LOAD(z + n + j, w), x = NN__LOAD(z + 2 * n + j, w);
        NN__V d = NN__LOAD(dh + j, w), dn, du;
        NN__STORE(dh + j, NN__MUL(d, u), w);
        dn = NN__SUB(NN__K(1.0f), u);
        dn = NN__MUL(d, dn);
        dn = NN__ID(tanh_grad)(dn, x);
        du = NN__SUB(NN__LOAD(h0 + j, w), x);
        du = NN__MUL(d, du);
        du = NN__ID(sigmoid_grad)(du, u);
        NN__STORE(z + n + j, du, w);
        NN__STORE(z + 2 * n + j, dn, w);
        if (reset) {
            d = NN__MUL(dn, NN__LOAD(q + 2 * n + j, w));
            d = NN__ID(sigmoid_grad)(d, r);
            NN__STORE(z + j, d, w);
            NN__STORE(q + j, d, w);
            NN__STORE(q + n + j, du, w);
            NN__STORE(q + 2 * n + j, NN__MUL(dn, r), w);
        } else {
            NN__STORE(q + j, NN__KBITS(0), w);
            NN__STORE(q + n + j, NN__KBITS(0), w);
            NN__STORE(q + 2 * n + j, dn, w);
        }
    }
}

/* From drh, the gradient of r h0: dh += drh r, z's r becomes its gradient, and rh = r h0. */
NN__KERNEL void NN__ID(gru_reset_grad_f32)(float *z, float *rh, float *dh, const float *drh,
                                           const float *h0, int32_t n) {
    int32_t j;
    for (j = 0; j < n; j += NN__WIDTH) {
        int w = NN__LEFT(n - j);
        NN__V r = NN__LOAD(z + j, w), h = NN__LOAD(h0 + j, w), d = NN__LOAD(drh + j, w);
        NN__STORE(rh + j, NN__MUL(r, h), w);
        NN__STORE(dh + j, NN__FMA(d, r, NN__LOAD(dh + j, w)), w);
        d = NN__MUL(d, h);
        NN__STORE(z + j, NN__ID(sigmoid_grad)(d, r), w);
    }
}
#endif

/* >>updates -------------------------------------------------------------------------------------
   Optimizer steps, initial values, dropout. */

#ifndef NN_NO_TRAIN
NN__KERNEL void NN__ID(sgd_f32)(float *p, const float *g, float *v, size_t n, const nn__step *s) {
    NN__V decay = NN__SPREAD(s->decay), momentum = NN__SPREAD(s->momentum),
          rate = NN__SPREAD(-s->lr);
    size_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__V x = NN__LOAD(p + i, w), d = NN__FMA(decay, x, NN__LOAD(g + i, w));
        if (v) {
            d = NN__FMA(momentum, NN__LOAD(v + i, w), d);
            NN__STORE(v + i, d, w);
        }
        NN__STORE(p + i, NN__FMA(rate, d, x), w);
    }
}

NN__KERNEL void NN__ID(adam_f32)(float *p, const float *g, float *m, float *v, size_t n,
                                 const nn__step *s) {
    NN__V decay = NN__SPREAD(s->decay), beta1_rest = NN__SPREAD(s->beta1_rest),
          beta2 = NN__SPREAD(s->beta2), beta2_rest = NN__SPREAD(s->beta2_rest),
          root_rest = NN__SPREAD(s->root), eps = NN__SPREAD(s->eps), rate = NN__SPREAD(-s->rate);
    size_t i;
    for (i = 0; i < n; i += NN__WIDTH) {
        int w = NN__LEFT(n - i);
        NN__V x = NN__LOAD(p + i, w), d = NN__FMA(decay, x, NN__LOAD(g + i, w));
        NN__V m1 = NN__LOAD(m + i, w), v1 = NN__MUL(beta2, NN__LOAD(v + i, w)), part;
        m1 = NN__FMA(beta1_rest, NN__SUB(d, m1), m1);
        part = NN__MUL(beta2_rest, d);
        v1 = NN__FMA(part, d, v1);
        part = NN__ROOT(v1);
        part = NN__FMA(part, root_rest, eps);
        part = NN__DIV(m1, part);
        NN__STORE(m + i, m1, w);
        NN__STORE(v + i, v1, w);
        NN__STORE(p + i, NN__FMA(rate, part, x), w);
    }
}
#endif

/* Uniform in [-bound, bound), by canonical index. */
NN__KERNEL void NN__ID(uniform_f32)(float *p, const nn_tensor *t, int32_t groups, uint64_t key,
                                    float bound) {
    uint32_t i;
    for (i = 0; i < t->count; i++) {
        float u = (float)(nn__random(key, i) >> 8);
        u = NN__FMA1(u, 1.1920928955078125e-7f, -1.0f);
        p[nn__place(t, groups, i)] = u * bound;
    }
}

NN__KERNEL void NN__ID(drop_f32)(float *y, const float *x, size_t n, uint64_t key, uint32_t below,
                                 float scale) {
    size_t i;
    for (i = 0; i < n; i++) y[i] = nn__random(key, (uint32_t)i) >> 8 < below ? 0.0f : x[i] * scale;
}

#if NN__DISPATCH
#define NN__X(type, name, arguments) , NN__ID(name##_f32)
NN__UNUSED static const nn_kernels NN__ID(kernels) = { NN__NAME NN__KERNELS(NN__X) };
#undef NN__X
#endif

#undef NN__PASTE2
#undef NN__PASTE
#undef NN__ID
#undef NN__KERNEL
#undef NN__KERNEL_INLINE
#undef NN__V
#undef NN__WIDTH
#undef NN__VECS
#undef NN__LOAD
#undef NN__BYTES
#undef NN__STORE
#undef NN__SPREAD
#undef NN__K
#undef NN__KBITS
#undef NN__ADD
#undef NN__SUB
#undef NN__MUL
#undef NN__DIV
#undef NN__ROOT
#undef NN__SEL_GT
#undef NN__SEL_NAN
#undef NN__GT_BITS
#undef NN__NAN_LANES
#undef NN__RELU
#undef NN__PICK
#undef NN__BITS_ADD
#undef NN__BITS_AND
#undef NN__BITS_OR
#undef NN__BITS_SHL
#undef NN__BITS_SHR
#undef NN__SUM16
#undef NN__TRANSPOSE4
#undef NN__TILES
#undef NN__TILE_ROWS
#undef NN__TILE_AT
#undef NN__LANE_TILES
#undef NN__FMA
#undef NN__BITS_OP
#undef NN__ALL
#undef NN__MASK
#undef NN__PREFETCH
#undef NN__LEFT
#undef NN__COPYSIGN
#undef NN__SCALE
#undef NN__LOGB
#undef NN__MANT
#undef NN__FIRST
#undef NN__C1
#undef NN__C2
#undef NN__C4
#undef NN__C8
#undef NN__R1
#undef NN__R2
#undef NN__R3
#undef NN__R4
#undef NN__R5
#undef NN__R6
#undef NN__R7
#undef NN__R8
#undef NN__R9
#undef NN__R10
#undef NN__R11
#undef NN__R12
#undef NN__PAIR_0
#undef NN__PAIR_1
#undef NN__PAIR_2
#undef NN__PAIR_3
#undef NN__PAIR_4
#undef NN__PAIR_5
#undef NN__PAIR_6
#undef NN__PAIR_7
#undef NN__PAIR_8
#undef NN__PAIR_9
#undef NN__PAIR_10
#undef NN__PAIR_11
#undef NN__T_ROW
#undef NN__T_ZERO1
#undef NN__T_ZERO
#undef NN__T_LOAD1
#undef NN__T_LOAD
#undef NN__T_B
#undef NN__T_FMA1
#undef NN__T_FMA
#undef NN__T_BIAS1
#undef NN__T_BIAS
#undef NN__T_RELU1
#undef NN__T_RELU
#undef NN__T_STORE1
#undef NN__T_STORE
#undef NN__DEFINE_TILE
#undef NN__NAME_TILE
#undef NN__BLOCK
#undef NN__PACK
#undef NN__L_COL
#undef NN__L_AT
#undef NN__L_ROW
#undef NN__L_B
#undef NN__L_FMA1
#undef NN__L_FMA
#undef NN__L_B_PART
#undef NN__L_PART1
#undef NN__L_PART
#undef NN__L_LIST
#undef NN__L_STORE
#undef NN__DEFINE_LANES_
#undef NN__DEFINE_LANES
#undef NN__NAME_LANES_
#undef NN__NAME_LANES
#undef NN__X
#undef NN__STAMP
#undef NN__ISA
#undef NN__TARGET
#undef NN__NAME
#endif /* NN__STAMP */

/* >>end -------------------------------------------------------------------------------------- */

/* This is free and unencumbered software released into the public domain (unlicense.org). Where
   that is not recognised, or if you prefer: MIT No Attribution.

   Copyright (c) 2026 the nn.h authors

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
   associated documentation files (the "Software"), to deal in the Software without restriction,
   including without limitation the rights to use, copy, modify, merge, publish, distribute,
   sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
   furnished to do so.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
   NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
   NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
   DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
