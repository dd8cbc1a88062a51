"""Keras layers that give the experts of an energy: any other layer serves as well."""
