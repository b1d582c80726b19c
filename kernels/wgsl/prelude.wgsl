// prelude.wgsl: what every kernel of this folder begins with. A kernel's text is prelude.wgsl, then (for weights) one file of
// blocks/, then the op's file; constants to choose at run time are WGSL overrides. Bindings are @group(0): storage buffers in
// the order of the op's file, then the parameters (uniform, dynamic offset). Loads and stores need no bounds checks of ours
// for safety (WebGPU clamps them), only for meaning.

// Dispatches have at most 65535 workgroups in a dimension: longer ones are folded into rows of y, see `split` in kernels.ts.
fn linear_workgroup(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.y * count.x + id.x;
}

// The four unsigned bytes of a word, lowest first.
fn bytes_u8(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
}

// The four signed bytes of a word, lowest first.
fn bytes_i8(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<i32>(bitcast<i32>(word)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}
