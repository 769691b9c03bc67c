// Slices of 8 bits to the encoder's input, bit for bit what kernels/preprocess.py computes on the host: Pillow's bicubic
// resize in its fixed-point arithmetic (an axis at a time, each rounded to 8 bits), then normalisation.
#include "common.cuh"

#define PRECISION_BITS 22  // Pillow's Resample.c: 32 - 8 - 2

static __device__ __forceinline__ int clip8(int sum) {
    int value = sum >> PRECISION_BITS;
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

// One axis of images (outer, length, inner) to (outer, size, inner); one thread for each output.
extern "C" __global__ void resize_axis(
    const u8* images, const int* first, const int* taps, u8* out, long long count, int length, int size, int inner,
    int num_taps) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int at_inner = (int)(i % inner), at = (int)(i / inner % size);
    const u8* line = images + i / inner / size * length * inner + at_inner;
    int sum = 1 << (PRECISION_BITS - 1);
    for (int k = 0; k < num_taps; k++) {
        int from = first[at] + k;
        if (from < length) sum += line[(long long)from * inner] * taps[at * num_taps + k];
    }
    out[i] = (u8)clip8(sum);
}

// images (n, size, size, channels) to normalised (n, 3, size, size); grey is repeated
extern "C" __global__ void normalise(
    const u8* images, const float* mean, const float* deviation, float* out, long long count, int pixels,
    int channels) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int pixel = (int)(i % pixels), channel = (int)(i / pixels % 3);
    u8 value = images[(i / pixels / 3 * pixels + pixel) * channels + channel % channels];
    float share = __fdiv_rn((float)value, 255.0f);
    out[i] = __fdiv_rn(__fsub_rn(share, mean[channel]), deviation[channel]);
}
