import { ProtobufWriter } from "./protobuf.ts";

/** ONNX element types that Rally's graphs use, by their numbers in the format. */
const ELEMENT_TYPES = { f32: 1, u8: 2, i32: 6, i64: 7, bf16: 16, "fp8-e4m3": 17 } as const;
type ElementType = keyof typeof ELEMENT_TYPES;

/** A dimension known when the graph is written, or the name of one that each run decides. */
type Dimension = number | string;

type Attribute = number | readonly number[] | { readonly float: number } | string;

/** Bytes of an initialiser that lie in a file beside the graph. */
export interface ExternalData {
  readonly file: string;
  readonly offset: number;
  readonly length: number;
}

const OPSET = 21;
const IR_VERSION = 10;
const MICROSOFT = "com.microsoft";
const RALLY = "rally";

/** Builds one ONNX model. Values are named by the strings that its methods return. */
export class OnnxGraph {
  readonly #graph = new ProtobufWriter();
  #nextNode = 0;
  #hasOwnOperators = false;

  constructor(name: string) {
    this.#graph.string(2, name);
  }

  input(name: string, type: ElementType, dims: readonly Dimension[]): string {
    this.#graph.message(11, (writer) => writeValueInfo(writer, name, type, dims));
    return name;
  }

  output(name: string, type: ElementType, dims: readonly Dimension[]): void {
    this.#graph.message(12, (writer) => writeValueInfo(writer, name, type, dims));
  }

  /** A constant whose bytes are in the weights file. */
  weight(name: string, type: ElementType, dims: readonly number[], data: ExternalData): string {
    this.#graph.message(5, (writer) => {
      writeTensorHead(writer, name, type, dims);
      const entries = { location: data.file, offset: String(data.offset), length: String(data.length) };
      for (const [key, value] of Object.entries(entries)) {
        writer.message(13, (entry) => {
          entry.string(1, key);
          entry.string(2, value);
        });
      }
      writer.integer(14, 1);
    });
    return name;
  }

  /** A small constant vector inside the graph file. */
  floats(name: string, values: Float32Array): string {
    return this.#constant(name, "f32", values);
  }

  integers(name: string, values: readonly number[]): string {
    return this.#constant(name, "i64", BigInt64Array.from(values, BigInt));
  }

  /** RMSNorm over the last axis, as `SimplifiedLayerNormalization` computes it. */
  rmsNorm(input: string, weight: Float32Array, eps: number, output: string): string {
    const scale = this.floats(`${output}_scale`, weight);
    const attributes = { axis: -1, epsilon: { float: eps }, stash_type: 1 };
    return this.node("SimplifiedLayerNormalization", [input, scale], [output], attributes);
  }

  /** Adds a node of the standard operators and names its outputs; the first is returned. An empty input is an absent one. */
  node(op: string, inputs: readonly string[], outputs: readonly string[], attributes?: Attributes): string {
    return this.#node("", op, inputs, outputs, attributes);
  }

  /** The same for ONNX Runtime's own operators. */
  contrib(op: string, inputs: readonly string[], outputs: readonly string[], attributes?: Attributes): string {
    return this.#node(MICROSOFT, op, inputs, outputs, attributes);
  }

  /** The same for operators of our own, which a session must be told the library of. */
  own(op: string, inputs: readonly string[], outputs: readonly string[], attributes?: Attributes): string {
    this.#hasOwnOperators = true;
    return this.#node(RALLY, op, inputs, outputs, attributes);
  }

  /** One flat output with the given values behind each other: an output costs a run more than the copy does. */
  blocks(values: readonly string[], output: string): void {
    this.integers(`${output}_flat`, [-1]);
    const flat = values.map((value) => this.node("Reshape", [value, `${output}_flat`], [`${value}_flat`]));
    this.node("Concat", flat, [output], { axis: 0 });
    this.output(output, "f32", [`${output}_length`]);
  }

  finish(): Uint8Array {
    const model = new ProtobufWriter();
    model.integer(1, IR_VERSION);
    model.string(2, "rally");
    model.bytes(7, this.#graph.finish());
    const domains = { "": OPSET, [MICROSOFT]: 1, ...(this.#hasOwnOperators && { [RALLY]: 1 }) };
    for (const [domain, version] of Object.entries(domains)) {
      model.message(8, (writer) => {
        writer.string(1, domain);
        writer.integer(2, version);
      });
    }
    return model.finish();
  }

  #constant(name: string, type: ElementType, values: Float32Array | BigInt64Array): string {
    this.#graph.message(5, (writer) => {
      writeTensorHead(writer, name, type, [values.length]);
      writer.bytes(9, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    });
    return name;
  }

  #node(
    domain: string,
    op: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Attributes = {},
  ) {
    const [first] = outputs;
    if (first === undefined) throw new Error(`broken invariant: node ${op} has an output`);
    this.#graph.message(1, (writer) => {
      for (const input of inputs) writer.string(1, input);
      for (const output of outputs) writer.string(2, output);
      writer.string(3, `${op}_${this.#nextNode++}`);
      writer.string(4, op);
      for (const [name, value] of Object.entries(attributes)) {
        writer.message(5, (attribute) => writeAttribute(attribute, name, value));
      }
      if (domain !== "") writer.string(7, domain);
    });
    return first;
  }
}

type Attributes = Readonly<Record<string, Attribute>>;

function writeValueInfo(writer: ProtobufWriter, name: string, type: ElementType, dims: readonly Dimension[]): void {
  writer.string(1, name);
  writer.message(2, (typeProto) =>
    typeProto.message(1, (tensor) => {
      tensor.integer(1, ELEMENT_TYPES[type]);
      tensor.message(2, (shape) => {
        for (const dim of dims) {
          shape.message(1, (d) => (typeof dim === "number" ? d.integer(1, dim) : d.string(2, dim)));
        }
      });
    }),
  );
}

function writeTensorHead(writer: ProtobufWriter, name: string, type: ElementType, dims: readonly number[]): void {
  for (const dim of dims) writer.integer(1, dim);
  writer.integer(2, ELEMENT_TYPES[type]);
  writer.string(8, name);
}

/** Attribute kinds by their numbers in the format. */
const [FLOAT, INT, STRING, INTS] = [1, 2, 3, 7];

function writeAttribute(writer: ProtobufWriter, name: string, value: Attribute): void {
  writer.string(1, name);
  if (typeof value === "number") {
    writer.int64(3, BigInt(value));
    writer.integer(20, INT);
  } else if (typeof value === "string") {
    writer.string(4, value);
    writer.integer(20, STRING);
  } else if ("float" in value) {
    writer.float(2, value.float);
    writer.integer(20, FLOAT);
  } else {
    for (const item of value) writer.int64(8, BigInt(item));
    writer.integer(20, INTS);
  }
}
