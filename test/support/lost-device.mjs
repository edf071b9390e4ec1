// node lost-device.mjs DIST LIBRARY FOLDER: a kernel reads where nothing is; prints the codes of that run's error and of the next one's.
import path from "node:path";
import { pathToFileURL } from "node:url";

const [dist, library, folder] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(path.join(dist, file)).href);
const { openGraph } = await load("models/kernels/check/runner.js");
const { KernelSizes } = await load("models/kernels/sizes.js");

const [numHeads, headDim] = [64, 256];
const pageBytes = new KernelSizes(library).kvPage("bf16", headDim);
const shapes = {
  query: ["bf16", [1, numHeads * headDim]],
  key_value: ["bf16", [1, 2 * headDim]],
  cos_sin: ["f32", [64, headDim / 2, 2]],
  pool: ["u8", [1, pageBytes]],
  page_table: ["i32", [1, 1]],
  lengths: ["i32", [1]],
};
const session = openGraph({ library, provider: "cuda", folder }, "lost", (graph) => {
  for (const [name, [type, dims]] of Object.entries(shapes)) graph.input(name, type, dims);
  const attributes = { num_heads: numHeads, head_dim: headDim, kv_type: "bf16" };
  graph.own("RopeAppend", Object.keys(shapes), ["rotated"], attributes);
  graph.output("rotated", "u8", [1, 2 * numHeads * headDim]);
});
const tensors = Object.fromEntries(
  Object.entries(shapes).map(([name, [type, dims]]) => [name, session.allocate(type, dims)]),
);
const zero = new Uint8Array(1);
for (const tensor of Object.values(tensors)) tensor.fillWith(zero);
tensors.lengths.upload(Int32Array.of(1));
// A page far beyond the pool.
tensors.page_table.upload(Int32Array.of(1_000_000_000));
const binding = session.bind(tensors, { rotated: session.allocate("u8", [1, 2 * numHeads * headDim]) });
for (let attempt = 0; attempt < 2; attempt++) {
  try {
    binding.run();
    console.log("no error");
  } catch (error) {
    console.log(error.code);
  }
}
// What goes down with the device cannot be tidied up.
process.exit(0);
