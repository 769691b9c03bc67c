// Low-resolution logits to a mask of the slice's size: kernels/resize.py's bilinear interpolation in the same order of
// operations, so that both give the same bits.
#include "common.cuh"

// between two numbers, without a fused multiply-add
static __device__ __forceinline__ float between(float start, float stop, float share) {
    return __fadd_rn(__fmul_rn(__fsub_rn(stop, start), share), start);
}

// logits (b, low, low); low_y, share_y (height,) and low_x, share_x (width,): left neighbour and share of the right one
extern "C" __global__ void mask_of_logits(
    const float* logits, const int* low_y, const float* share_y, const int* low_x, const float* share_x, u8* mask,
    int low, int height, int width) {
    int row = blockIdx.z, y = blockIdx.y, x = blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= width) return;
    const float* own = logits + (long long)row * low * low;
    int top = low_y[y], bottom = top + 1 < low ? top + 1 : top, left = low_x[x], right = left + 1 < low ? left + 1 : left;
    float at_left = between(own[top * low + left], own[bottom * low + left], share_y[y]);
    float at_right = between(own[top * low + right], own[bottom * low + right], share_y[y]);
    mask[((long long)row * height + y) * width + x] = (u8)(between(at_left, at_right, share_x[x]) > 0.0f);
}
