"""The pages, a module for each thing people come to do. Each has a JSON twin at the same address."""
