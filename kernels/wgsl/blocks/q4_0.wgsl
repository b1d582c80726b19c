// Q4_0: w = d * (q - 8); low nibbles are elements 0..15, high ones 16..31. Planes of a row: quants (16 bytes a block), d (f16).

struct Unit {
    quants: vec4<u32>,
    scale: f32,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    return Unit(weight4[row + unit], f16_at(4u * (row + units), unit));
}

fn unit_half(raw: Unit, half: u32) -> Half {
    return Half(nibbles(raw.quants, half), raw.scale, -8.0 * raw.scale);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
