"""The web demo as a Hugging Face Space."""

import os

# Ahead of Gradio, which reads it when it is imported: no usage statistics.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from captum_globenc.demo.page import build, launch_options

demo = build()

if __name__ == "__main__":
    demo.launch(**launch_options())
