"""Sessions: chunks put into a store, and layers and images published."""
