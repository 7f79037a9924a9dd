"""MedMNIST: data sets of small images and volumes in npz files, and generated ones in the same layout."""
