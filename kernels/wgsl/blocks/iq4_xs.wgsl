// IQ4_XS: w = d * (scale - 32) * table[q], a scale (6 bits) for every 32 elements, whose nibbles stand as in Q4_0.
// Planes of a row: quants (128 bytes a block), then two words a block: d with the scales' upper pairs of bits, lower nibbles.

const LEVELS = array<f32, 16>(-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0);

struct Unit {
    quants: vec4<u32>,
    scale: f32,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    let head = 4u * (row + units) + 2u * (unit >> 3u);
    let first = weight1[head];
    let j = unit & 7u;
    let low = (weight1[head + 1u] >> (4u * j)) & 15u;
    let high = (first >> (16u + 2u * j)) & 3u;
    return Unit(weight4[row + unit], unpack2x16float(first).x * (f32(low | (high << 4u)) - 32.0));
}

fn levels(word: u32) -> vec4<f32> {
    return vec4<f32>(LEVELS[word & 15u], LEVELS[(word >> 8u) & 15u], LEVELS[(word >> 16u) & 15u], LEVELS[(word >> 24u) & 15u]);
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let q = raw.quants >> vec4<u32>(4u * half);
    return Half(array<vec4<f32>, 4>(levels(q.x), levels(q.y), levels(q.z), levels(q.w)), raw.scale, 0.0);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
