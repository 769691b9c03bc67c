// What memory attention reads, in the order of its keys: tokens of memories, then pieces of pointers, rounded to
// bfloat16, and the weight of each. Rows are multiples of 16 bytes, and so are the addresses they start at.
#include "mma.cuh"

constexpr int PIECE = 4;  // channels that a thread moves; `pack_values.py` knows it too

struct alignas(16) Four { float numbers[PIECE]; };
struct alignas(8) FourHalves { u32 words[2]; };

// memory (b, k * tokens, channels), memory_weight (b, k), pointers (b, p * pieces, channels), pointer_weight (b, p)
// to value (b, k * tokens + p * pieces, channels) as bfloat16 and weight (b, k * tokens + p * pieces);
// `width` is channels / PIECE. Blocks: pieces of a row of the batch, 1, b.
extern "C" __global__ void pack_values(
    const Four* memory, const float* memory_weight, const Four* pointers, const float* pointer_weight,
    FourHalves* value, float* weight, int k, int tokens, int p, int pieces, int width) {
    const int keys = k * tokens + p * pieces, at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= keys * width) return;
    const long long b = blockIdx.z;
    const int key = at / width, rest = key - k * tokens;
    const bool is_memory = rest < 0;
    const Four four = is_memory ? memory[b * k * tokens * width + at]
                                : pointers[b * p * pieces * width + at - k * tokens * width];
    value[b * keys * width + at] = {
        {two_bfloat16(four.numbers[0], four.numbers[1]), two_bfloat16(four.numbers[2], four.numbers[3])}};
    if (at % width == 0)
        weight[b * keys + key] =
            is_memory ? memory_weight[b * k + key / tokens] : pointer_weight[b * p + rest / pieces];
}
