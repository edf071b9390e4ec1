/** Softmax of each row's logits, then its top k, not renormalised. Of equal logits the lower expert comes first. */
export function route(
  logits: Float32Array, // [numTokens, numExperts]
  numExperts: number,
  topK: number,
  expertIds: Int32Array, // [numTokens, topK]
  expertWeights: Float32Array, // [numTokens, topK]
): void {
  const shares = new Float64Array(numExperts);
  for (let row = 0, at = 0; row < logits.length; row += numExperts, at += topK) {
    // The k best so far, kept sorted by insertion: k is small.
    for (let expert = 0; expert < numExperts; expert++) {
      const logit = logits[row + expert] as number;
      let rank = Math.min(expert, topK);
      while (rank > 0 && (logits[row + (expertIds[at + rank - 1] as number)] as number) < logit) {
        if (rank < topK) expertIds[at + rank] = expertIds[at + rank - 1] as number;
        rank--;
      }
      if (rank < topK) expertIds[at + rank] = expert;
    }
    const largest = logits[row + (expertIds[at] as number)] as number;
    let sum = 0;
    for (let expert = 0; expert < numExperts; expert++) {
      const share = Math.exp((logits[row + expert] as number) - largest);
      shares[expert] = share;
      sum += share;
    }
    for (let rank = 0; rank < topK; rank++) {
      expertWeights[at + rank] = (shares[expertIds[at + rank] as number] as number) / sum;
    }
  }
}
