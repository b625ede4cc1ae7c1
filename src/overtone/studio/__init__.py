"""The studio: models in a browser, live. `overtone studio` opens it; the extra is `.[studio]`."""
