"""RADHicaL cascades: networks at low magnification decide which pixels are computed at higher magnification."""
