// A language model in a file of `sparsernn export RUN --graph sequence`: text in, one token after the other out.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more would need a server that sends cross-origin isolation headers
ort.env.wasm.wasmPaths = { wasm: new URL("./ort/ort-wasm-simd-threaded.wasm", import.meta.url).href };

const EOS = "<eos>", UNKNOWN = "<unk>";

/** The numbered fields of a protocol buffer: [number, bytes] of those that have a length; the others are passed over. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, factor = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * factor;
      factor *= 128;
    } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const key = varint(), wire = key % 8;
    if (wire === 2) {
      const length = varint();
      yield [Math.floor(key / 8), bytes.subarray(at, at + length)];
      at += length;
    } else if (wire === 0) varint();
    else at += wire === 1 ? 8 : 4;
  }
}

const METADATA = 14; // ModelProto.metadata_props, pairs of key (1) and value (2)

/** What the file says of itself, name -> value. onnxruntime-web does not hand it out, so it is read here. */
export function metadata(bytes) {
  const text = new TextDecoder(), told = {};
  for (const [number, inside] of fields(bytes)) {
    if (number !== METADATA) continue;
    const pair = Object.fromEntries(fields(inside));
    told[text.decode(pair[1])] = JSON.parse(text.decode(pair[2]));
  }
  return told;
}

// Python's \w is a letter, a number of any kind or _; its \d a decimal digit; and small raised and lowered digits count as
// numbers, as they do there (other digits that are not decimal, such as circled ones, stay words here).
const NUMBER = /^[\p{Nd}\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089]/u;
const PROSE = new RegExp(
  "<unk>|<eos>|[\\p{L}\\p{Nl}\\p{No}_][\\p{L}\\p{N}_]*(?:'[\\p{L}\\p{Nl}\\p{No}_]+)?"
  + "|\\p{Nd}[\\p{L}\\p{N}_.,]*[\\p{L}\\p{N}_]|\\p{Nd}|>>>|\\.\\.\\.|[^\\p{L}\\p{N}_\\s]", "gu");
const lines = (text) => text.replace(/\n$/, "").split("\n");
const words = (line) => line.split(/\s+/).filter(Boolean);

function prose(text) {
  const tokens = [];
  for (const block of text.replace(/^\n+|\n+$/g, "").split(/\n[^\S\n]*\n\s*/)) {
    const plain = block.replaceAll("\u2019", "'").replace(/([^\p{L}\p{N}_\s])\1{3,}/gu, " ");
    const found = (plain.match(PROSE) ?? []).map((token) => (NUMBER.test(token) ? "N" : token));
    if (found.length) tokens.push(...found, EOS);
  }
  return tokens;
}

const spaced = (tokens, end) => tokens.map((token) => (token === EOS ? end : token)).join(" ");

/** Style of a text -> how it is cut into tokens, and how tokens become a text. */
const STYLES = {
  whitespace: [
    (text) => lines(text).flatMap((line) => [...words(line), EOS]),
    (tokens) => spaced(tokens, "\n").replaceAll(" \n ", "\n").replaceAll(" \n", "\n"),
  ],
  prose: [
    prose,
    (tokens) => spaced(tokens, "\n\n").replaceAll("\n\n ", "\n\n").replaceAll(" \n", "\n")
      .replace(/ (?=[,.;:!?)\]}])/g, "").replace(/(?<=[([{]) /g, ""),
  ],
  characters: [(text) => [...text], (tokens) => tokens.join("")],
  bytes: [
    (text) => [...new TextEncoder().encode(text)].map((byte) => String.fromCharCode(byte)),
    (tokens) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(
      Uint8Array.from(tokens, (token) => (/^[\0-\u00ff]$/.test(token) ? token.charCodeAt(0) : 63))),
  ],
  penn_characters: [
    (text) => lines(text).flatMap((line) => [...words(line).join("_"), EOS]),
    (tokens) => tokens.map((token) => (token === EOS ? "\n" : token.replaceAll("_", " "))).join(""),
  ],
};

/** The tokens of the beginning of a text, without the <eos> that would end it. */
export function cut(text, style) {
  const tokens = text.trim() ? STYLES[style.name][0](style.lowercase ? text.toLowerCase() : text) : [];
  return tokens.at(-1) === EOS ? tokens.slice(0, -1) : tokens;
}

/** A text that people read. */
export const join = (tokens, style) => STYLES[style.name][1](tokens);

/** Numbers in [0, 1), the same for the same seed (xorshift, G. Marsaglia, 2003). */
function uniform(seed) {
  let state = (seed * 2654435769 + 1) >>> 0 || 1; // small seeds far apart, and never 0
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  for (let k = 0; k < 8; k++) next();
  return next;
}

/** A token drawn from softmax(scores / temperature); of a temperature of 0 the likeliest. */
function draw(scores, temperature, random) {
  let best = 0;
  scores.forEach((score, k) => { if (score > scores[best]) best = k; });
  if (temperature <= 0) return best;
  const chances = scores.map((score) => Math.exp((score - scores[best]) / temperature));
  let left = random() * chances.reduce((sum, chance) => sum + chance, 0);
  const found = chances.findIndex((chance) => (left -= chance) < 0);
  return found < 0 ? best : found;
}

export class Writer {
  /** The model of a file; `told` is its metadata, `bytes` its size. */
  static async load(url) {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url} is not here; see README.md for how it is made.`);
    const bytes = new Uint8Array(await answer.arrayBuffer()), told = metadata(bytes);
    if (told.graph !== "sequence" || told.reads !== "words" || !told.style) {
      throw new Error(`${url} is no language model of text; export one with --graph sequence.`);
    }
    if (!(told.style.name in STYLES)) {
      throw new Error(`${url} has texts of the style ${told.style.name}, which this page cannot cut.`);
    }
    const writer = new Writer();
    writer.session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    writer.told = told;
    writer.bytes = bytes.length;
    writer.vocabulary = told.tokens.vocabulary;
    writer.index = new Map(writer.vocabulary.map((token, k) => [token, k]));
    return writer;
  }

  /** Numbers of tokens; an error names one that is not known where the vocabulary has no <unk>. */
  ids(tokens) {
    return tokens.map((token) => {
      const found = this.index.get(token) ?? this.index.get(UNKNOWN);
      if (found === undefined) throw new Error(`The model does not know ${JSON.stringify(token)}.`);
      return found;
    });
  }

  /** Scores of the next token after more ids; the state is kept in `this.state`. */
  async read(ids) {
    const words = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [ids.length, 1]);
    const lengths = new ort.Tensor("int64", BigInt64Array.of(BigInt(ids.length)), [1]);
    const said = await this.session.run({ words, lengths, ...this.state });
    for (const name of Object.keys(this.state)) this.state[name] = said[name.replace("state", "next")];
    return said.log_prob.data.slice(-this.vocabulary.length);
  }

  /** One token after the other, as text that grows: the whole of it each time. */
  async *write(prompt, tokens, temperature, seed) {
    const { style, start } = this.told, random = uniform(seed), given = cut(prompt, style);
    const begin = Object.entries(start).map(([name, values]) => [
      name, new ort.Tensor("float32", Float32Array.from(values), [1, values.length])]);
    this.state = Object.fromEntries(begin);
    let read = this.ids(given.length ? given : [this.index.has(EOS) ? EOS : this.vocabulary[0]]);
    const written = given.length ? read.map((k) => this.vocabulary[k]) : [];
    for (let k = 0; k < tokens; k++) {
      const scores = await this.read(read);
      if (this.index.has(UNKNOWN)) scores[this.index.get(UNKNOWN)] = -Infinity;
      read = [draw(scores, temperature, random)];
      written.push(this.vocabulary[read[0]]);
      yield join(written, style).trim();
    }
  }
}
