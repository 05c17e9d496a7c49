from packaging.version import Version


def main():
    print(max(Version("1.10"), Version("1.9")))
