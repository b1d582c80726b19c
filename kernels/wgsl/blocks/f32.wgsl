// F32: plain numbers, rows padded with zeros to whole units.

struct Unit {
    at: u32,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    return Unit(row + 8u * unit);
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let at = raw.at + 4u * half;
    return Half(array<vec4<f32>, 4>(bitcast<vec4<f32>>(weight4[at]), bitcast<vec4<f32>>(weight4[at + 1u]),
                                    bitcast<vec4<f32>>(weight4[at + 2u]), bitcast<vec4<f32>>(weight4[at + 3u])), 1.0, 0.0);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 8u * unit + 4u * half;
}
