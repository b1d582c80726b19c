// F16: half-precision numbers, rows padded with zeros to whole units. unpack2x16float is core WGSL: no need for shader-f16.

struct Unit {
    at: u32,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    return Unit(row + 4u * unit);
}

fn four(low: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(low), unpack2x16float(high));
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let a = weight4[raw.at + 2u * half];
    let b = weight4[raw.at + 2u * half + 1u];
    return Half(array<vec4<f32>, 4>(four(a.x, a.y), four(a.z, a.w), four(b.x, b.y), four(b.z, b.w)), 1.0, 0.0);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
