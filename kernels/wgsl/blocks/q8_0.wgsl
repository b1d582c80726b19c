// Q8_0: 32 signed bytes and a scale, w = d * q. Planes of a row: quants (32 bytes a block), then d (f16).

struct Unit {
    at: u32,
    scale: f32,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    return Unit(row + 2u * unit, f16_at(4u * row + 8u * units, unit));
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let q = weight4[raw.at + half];
    return Half(array<vec4<f32>, 4>(bytes_i8(q.x), bytes_i8(q.y), bytes_i8(q.z), bytes_i8(q.w)), raw.scale, 0.0);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
