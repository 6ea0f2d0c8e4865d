"""The job `convert`: a model of any format as a folder of dense safetensors."""
