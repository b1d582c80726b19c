// Q5_1: w = d * q + m; nibbles as in Q4_0, bit i of the word qh is the fifth of element i.
// Planes of a row: nibbles (16 bytes a block), qh (one word a block), d and m (one word a block).

struct Unit {
    quants: vec4<u32>,
    high: u32,
    scale: vec2<f32>,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    let planes = 4u * (row + units);
    return Unit(weight4[row + unit], weight1[planes + unit], unpack2x16float(weight1[planes + units + unit]));
}

fn fifth_bits(bits: u32) -> vec4<f32> { // bits 0..3, worth 16 each
    return vec4<f32>(((vec4<u32>(bits) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u)) << vec4<u32>(4u));
}

fn unit_half(raw: Unit, half: u32) -> Half {
    var q = nibbles(raw.quants, half);
    let bits = raw.high >> (16u * half);
    for (var i = 0u; i < 4u; i++) { q[i] += fifth_bits(bits >> (4u * i)); }
    return Half(q, raw.scale.x, raw.scale.y);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
