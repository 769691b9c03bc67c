// Memory slots on the device: gathered by index, stored rounded to bfloat16, compared. Rows are multiples of 16 bytes.
#include "common.cuh"

// values (slots, length) at index (count,) to out (count, length); lengths in pieces of 16 bytes
extern "C" __global__ void gather_slots(const Sixteen* values, const long long* index, Sixteen* out, int length) {
    const Sixteen* from = values + index[blockIdx.y] * length;
    Sixteen* to = out + (long long)blockIdx.y * length;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < length; i += gridDim.x * blockDim.x) to[i] = from[i];
}

// memories (count, length) to values[index], perhaps rounded to bfloat16, which is kept as float
extern "C" __global__ void store_slots(
    const float* memories, const long long* index, float* values, int length, int is_rounded) {
    const float* from = memories + (long long)blockIdx.y * length;
    float* to = values + index[blockIdx.y] * length;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < length; i += gridDim.x * blockDim.x)
        to[i] = is_rounded ? rounded_to_bfloat16(from[i]) : from[i];
}

// cosine of probe (length,) with values[index]; one block for each slot
extern "C" __global__ void slot_similarity(
    const float* values, const long long* index, const float* probe, float* cosines, int length) {
    __shared__ float sums[32];
    const float* slot = values + index[blockIdx.x] * length;
    float product = 0.0f, own = 0.0f, other = 0.0f;
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        float a = slot[i], b = probe[i];
        product += a * b;
        own += a * a;
        other += b * b;
    }
    product = block_sum(product, sums);
    own = block_sum(own, sums);
    other = block_sum(other, sums);
    if (threadIdx.x == 0) {
        float lengths = sqrtf(own) * sqrtf(other);
        float cosine = lengths > 0.0f ? product / lengths : 0.0f;
        cosines[blockIdx.x] = cosine < -1.0f ? -1.0f : cosine > 1.0f ? 1.0f : cosine;
    }
}
