"""Networks in torch, exported to graphs: the models, the exporter, the certificate against PyTorch."""
