"""One run from its recipe to its folder: put together, trained, saved, resumed, evaluated, finetuned, compacted."""
