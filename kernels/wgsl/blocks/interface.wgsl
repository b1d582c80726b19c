// interface.wgsl: how kernels read weights, whatever their block type. It precedes every file of this folder but is one itself:
// it declares the bindings. A row of a weight is `units` units of 32 elements, each in two halves of 16 neighbouring columns, so
// that 16 bytes of 4-bit quants, one load, are a unit. Each block type's file defines
//
//     struct Unit                                       raw words of a unit
//     fn load_unit(row, unit, units) -> Unit            `row` counts in vec4<u32> from the start of the binding
//     fn unit_half(raw, half) -> Half                   half 0 or 1; weight = scale * q + offset
//     fn half_column(unit, half) -> u32                 column of the half's first element, in fours
//
// Rows are those of weight_layout.ts: the file's bits, blocks taken apart into planes where their size is no multiple of 16 bytes.

@group(0) @binding(0) var<storage, read> weight4: array<vec4<u32>>; // the same buffer twice: wide loads for quants,
@group(0) @binding(1) var<storage, read> weight1: array<u32>;       // single words for scales

struct Half {
    q: array<vec4<f32>, 4>,
    scale: f32,
    offset: f32,
}

fn f16_at(word: u32, index: u32) -> f32 { // the index-th half-precision number from a word on
    let pair = unpack2x16float(weight1[word + (index >> 1u)]);
    return select(pair.x, pair.y, (index & 1u) == 1u);
}

fn nibbles(quants: vec4<u32>, half: u32) -> array<vec4<f32>, 4> { // low ones for half 0, high ones for half 1
    let q = (quants >> vec4<u32>(4u * half)) & vec4<u32>(0x0f0f0f0fu);
    return array<vec4<f32>, 4>(bytes_u8(q.x), bytes_u8(q.y), bytes_u8(q.z), bytes_u8(q.w));
}

fn bytes_of(q: vec4<u32>, minus: f32) -> array<vec4<f32>, 4> {
    return array<vec4<f32>, 4>(bytes_u8(q.x) - minus, bytes_u8(q.y) - minus, bytes_u8(q.z) - minus, bytes_u8(q.w) - minus);
}
