"""How attention grows with frames T and feature cells HW: sizes and methods, fits and claims."""
