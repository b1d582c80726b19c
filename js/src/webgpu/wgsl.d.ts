// Bundlers turn a kernel file into its text.
declare module '*.wgsl' {
  const text: string;
  export default text;
}
