"""The pages of the documentation site that are made from the code: components, configs, commands and the API."""
