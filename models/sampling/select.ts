type Values = Float32Array | Float64Array;

/** Ids of the `count` largest values, largest first, the lower id first among equals; n log count. */
export function largest(values: Values, count: number): Int32Array {
  const size = Math.min(count, values.length);
  const heap = new Int32Array(size);
  if (size === 0) return heap;
  // The worst of those kept is at the root; ids come in ascending order, so an equal newcomer never displaces anything.
  for (let id = 0; id < size; id++) heap[id] = id;
  for (let at = (size >> 1) - 1; at >= 0; at--) sink(heap, at, size, values);
  let worst = valueAt(values, heap, 0);
  for (let id = size; id < values.length; id++) {
    if ((values[id] as number) > worst) {
      heap[0] = id;
      sink(heap, 0, size, values);
      worst = valueAt(values, heap, 0);
    }
  }
  // Heap sort: the worst goes to the end each time.
  for (let end = size - 1; end > 0; end--) {
    const root = heap[0] as number;
    heap[0] = heap[end] as number;
    heap[end] = root;
    sink(heap, 0, end, values);
  }
  return heap;
}

function sink(heap: Int32Array, from: number, size: number, values: Values): void {
  const id = heap[from] as number;
  let at = from;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    if (child + 1 < size && isWorse(heap[child + 1] as number, heap[child] as number, values)) child++;
    if (!isWorse(heap[child] as number, id, values)) break;
    heap[at] = heap[child] as number;
    at = child;
  }
  heap[at] = id;
}

function isWorse(a: number, b: number, values: Values): boolean {
  const [valueA, valueB] = [values[a] as number, values[b] as number];
  return valueA < valueB || (valueA === valueB && a > b);
}

function valueAt(values: Values, heap: Int32Array, at: number): number {
  return values[heap[at] as number] as number;
}
