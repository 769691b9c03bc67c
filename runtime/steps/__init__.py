"""How a step is carried out: encodings made ahead, batches sent, graphs replayed, results fetched."""
