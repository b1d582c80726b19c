// Q4_1: w = d * q + m; nibbles as in Q4_0. Planes of a row: quants (16 bytes a block), then d and m (one word a block).

struct Unit {
    quants: vec4<u32>,
    scale: vec2<f32>,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    return Unit(weight4[row + unit], unpack2x16float(weight1[4u * (row + units) + unit]));
}

fn unit_half(raw: Unit, half: u32) -> Half {
    return Half(nibbles(raw.quants, half), raw.scale.x, raw.scale.y);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
