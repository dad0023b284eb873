// The page: settings in, text out, a token at a time. body[data-state] says loading, ready, writing, done or failed.

import { Writer, cut, join } from "./onnx_writer.js";

const at = (name) => document.getElementById(name);
const show = (state) => { document.body.dataset.state = state; };
let writer, stopped;

function fail(error) {
  at("model").textContent = error.message;
  show("failed");
}

function settings() {
  return ["tokens", "temperature", "seed"].map((name) => Number(at(name).value));
}

function paint(prompt, text) {
  const given = join(cut(prompt, writer.told.style), writer.told.style).trim();
  const shared = text.startsWith(given) ? given.length : 0;
  const mark = document.createElement("span");
  mark.className = "given";
  mark.textContent = text.slice(0, shared);
  at("written").replaceChildren(mark, text.slice(shared));
}

async function write(event) {
  event.preventDefault();
  const prompt = at("prompt").value, [tokens, temperature, seed] = settings(), begun = performance.now();
  let count = 0;
  stopped = false;
  at("write").disabled = !(at("stop").disabled = false);
  show("writing");
  try {
    for await (const text of writer.write(prompt, tokens, temperature, seed)) {
      paint(prompt, text);
      const seconds = (performance.now() - begun) / 1000;
      at("speed").textContent = `${++count} tokens, ${(count / seconds).toFixed(0)} per second, in this browser`;
      if (count % 4 === 0) await new Promise((done) => setTimeout(done)); // so that what is written is seen
      if (stopped) break;
    }
    show("done");
  } catch (error) {
    fail(error);
  }
  at("write").disabled = !(at("stop").disabled = true);
}

at("ask").addEventListener("submit", write);
at("stop").addEventListener("click", () => { stopped = true; });
at("temperature").addEventListener("input", () => { at("bold").value = at("temperature").value; });

try {
  writer = await Writer.load("model.onnx");
  const { told, bytes, vocabulary } = writer, size = (bytes / 1e6).toFixed(1);
  at("model").textContent = `${told.name ?? "A language model"}: ${vocabulary.length.toLocaleString("en")} tokens, `
    + `${size} MB, all of it in this page; what you type stays here.`;
  at("write").disabled = false;
  show("ready");
} catch (error) {
  fail(error);
}
