// BF16: the upper halves of f32 numbers, rows padded with zeros to whole units.

struct Unit {
    at: u32,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    return Unit(row + 4u * unit);
}

fn four(low: u32, high: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u));
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let a = weight4[raw.at + 2u * half];
    let b = weight4[raw.at + 2u * half + 1u];
    return Half(array<vec4<f32>, 4>(four(a.x, a.y), four(a.z, a.w), four(b.x, b.y), four(b.z, b.w)), 1.0, 0.0);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
